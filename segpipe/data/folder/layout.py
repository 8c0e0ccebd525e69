"""The files of a data set before they are decoded: images and labels of each split by name, and how they are paired."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from segpipe.data.dataset import Split
from segpipe.data.find import IMAGE_SUFFIXES, images_below, same_letters, walk
from segpipe.data.folder.classes import Classes
from segpipe.data.folder.seen import common_template, contents, unreadable_files
from segpipe.data.folder.survey import MaskSource
from segpipe.data.folder.words import IMAGE_WORDS, MASK_WORDS, SPLIT_WORDS, mask_owners, plain_image
from segpipe.errors import UserError

MASK_SUFFIXES = {*IMAGE_SUFFIXES, ".gif"}
JSON = {".json"}
WORDS: Mapping[str, tuple[str, ...]] = dict(SPLIT_WORDS) | {"images": IMAGE_WORDS, "masks": MASK_WORDS}  # type: ignore[operator]
LAYOUTS = (
    "ROOT/train/images and ROOT/train/masks (likewise val, test), or ROOT/images and ROOT/masks; any other two folders "
    "as data.dataset.images=FOLDER data.dataset.masks=FOLDER; any other names as templates, "
    "data.dataset.images='{split}/img/*.tif' data.dataset.masks='{split}/lab/{name}_L.png' (docs/data.md lists all)"
)
SKIP = "or leave such images out: data.dataset.unlabelled=skip"
Unlabelled = Literal["error", "skip"]


class Pair(NamedTuple):
    """An image and its mask; name: the path below the folder of images, without suffix.

    more: files with further channels of the image.
    """

    name: str
    image: Path
    mask: Path | MaskSource
    more: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the image, in the order of its channels."""
        return (self.image, *self.more)


class Folders(NamedTuple):
    """A folder of images and a folder of masks."""

    images: Path
    masks: Path


class Files(NamedTuple):
    """Images and masks by name. where: the folders, for messages. more: files with further channels of an image."""

    images: Mapping[str, Path]
    masks: Mapping[str, Path | MaskSource]
    where: Folders
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    more: Mapping[str, tuple[Path, ...]] = {}


class SplitFiles(NamedTuple):
    """The image and mask pairs of a split, the problems of its files, and notes on them."""

    pairs: list[Pair]
    problems: list[str]
    notes: list[str]


Part = Split | Literal["trainval", "all"]  # what is divided by name: train and val, or all three


class Layout(NamedTuple):
    """The files of each split, and how they were understood.

    classes: those that the layout itself names. order: of the names of annotations.
    """

    parts: dict[Part, Files]
    notes: tuple[str, ...] = ()
    classes: Classes | None = None
    order: tuple[str, ...] = ()


FolderLayout = dict[Part, Folders]


def find_folders(root: Path) -> FolderLayout:
    """Return the folders of each split, or of ``all`` images and masks. Raises UserError if there are none."""
    both = image_mask_dirs(root)
    if find_dir(root, "train") or (both is None and (find_dir(root, "val") or find_dir(root, "test"))):
        return by_split({split: find_dir(root, split) for split in get_args(Split)}, root)
    if both is None:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise UserError(
            f"{root}: contains neither images and masks nor train and val, but {found}. Allowed is {LAYOUTS}."
        )
    return split_dirs(both)


def split_dirs(whole: Folders) -> FolderLayout:
    """Return the folders of each split below those of images and masks, if there are any; else ``all``."""
    folders_by_split: FolderLayout = {}
    for split in get_args(Split):
        images, masks = find_dir(whole.images, split), find_dir(whole.masks, split)
        if images and masks:
            folders_by_split[split] = Folders(images, masks)
    return require_splits(folders_by_split, whole.images) if folders_by_split else {"all": whole}


def by_split(folders: dict[Split, Path | None], root: Path) -> FolderLayout:
    """Return the folders of images and masks in each split's folder; a test folder without masks is not used."""
    folders_by_split: FolderLayout = {}
    for split, folder in folders.items():
        pair = image_mask_dirs(folder) if folder else None
        if pair:
            folders_by_split[split] = pair
        elif folder and split != "test":
            raise UserError(f"{folder}: does not contain folders images and masks. Allowed is {LAYOUTS}.")
    return require_splits(folders_by_split, root)


def require_splits(layout: FolderLayout, root: Path) -> FolderLayout:
    """Return the layout. Raises UserError if train or val is missing."""
    for split in get_args(Split)[:2]:
        if split not in layout:
            raise UserError(
                f"{root}: no folder {split}. Move some of the images and masks there; or move all to ROOT/images and "
                f"ROOT/masks, to split them by data.dataset.fractions."
            )
    return layout


def find_dir(folder: Path, name: str) -> Path | None:
    """Return the folder below ``folder`` with one of the spellings of ``name``, or None; small letters first."""
    exact = next((folder / word for word in WORDS[name] if (folder / word).is_dir()), None)
    if exact is not None or not folder.is_dir():
        return exact
    present = {entry.lower(): entry for entry in sorted(os.listdir(folder), reverse=True)}
    words = [present[word] for word in WORDS[name] if word in present]
    return next((folder / word for word in words if (folder / word).is_dir()), None)


def image_mask_dirs(folder: Path) -> Folders | None:
    """Return the folders of images and masks below ``folder``, or None if one is missing."""
    images, masks = find_dir(folder, "images"), find_dir(folder, "masks")
    return Folders(images, masks) if images and masks else None


def read_folders(folders: Folders) -> Files:
    """Return the images and masks in and below two folders. In one folder for both, the names tell which is which."""
    images, problems = images_below(folders.images, IMAGE_SUFFIXES)
    masks: Mapping[str, Path]
    if folders.images == folders.masks:
        images, masks = told_by_name(images)
    else:
        masks, others = images_below(folders.masks, MASK_SUFFIXES)
        problems += others
    return Files(images, masks, folders, tuple(problems))


def told_by_name(files: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Divide the files of one folder into images and masks: ``x_mask`` is a mask if there is an image ``x``."""
    images = Lookup(files)
    masks = {name: path for name, path in files.items() if images.owner(name, own=False) is not None}
    return {name: path for name, path in files.items() if name not in masks}, masks


class Lookup:
    """Finds the image of a mask by name: an equal name, or one without the ending that marks masks."""

    def __init__(self, images: Iterable[str]) -> None:
        self.images = dict.fromkeys(images)
        self.by_letters = {same_letters(name): name for name in self.images}
        plain: dict[str, list[str]] = {}
        for name in self.images:
            plain.setdefault(same_letters(plain_image(name)), []).append(name)
        self.by_plain = {form: names[0] for form, names in plain.items() if len(names) == 1}

    def owner(self, mask: str, *, own: bool = True) -> str | None:
        """Return the name of the image of a mask, or None. own: an image may have the mask's own name."""
        forms = [mask, *mask_owners(mask)]
        for form in forms if own else forms[1:]:
            for name in (form, self.by_letters.get(same_letters(form)), self.by_plain.get(same_letters(form))):
                if name in self.images and (own or name != mask):
                    return name
        return None


def match(files: Files, unlabelled: Unlabelled = "error") -> SplitFiles:
    """Pair images with masks of the same name (or with an ending that marks masks); return sorted pairs.

    unlabelled: images without a mask are a problem, or are left out, which is noted.
    """
    images, masks, folders, problems = files.images, files.masks, files.where, list(files.problems)
    if not images or not masks:
        folder = folders.masks if images else folders.images
        kind = "mask" if images else "image"
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        there = f" It has {contents(folder)}.{unreadable_files(folder)}" if folder.is_dir() else ""
        return SplitFiles([], [*problems, f"{folder}: contains no {kind} ({suffixes}).{there}"], [])
    owner = owners(files)
    mask_of = {owner[name]: path for name, path in reversed(list(masks.items())) if owner[name] != name}
    mask_of |= {owner[name]: path for name, path in masks.items() if owner[name] == name}  # an equal name has priority
    matched = [
        Pair(name, path, mask_of[name], files.more.get(name, ())) for name, path in images.items() if name in mask_of
    ]
    if not matched:
        return SplitFiles([], [*problems, none_fits(files)], [])
    used = {pair.mask for pair in matched}
    lonely = [path for name, path in images.items() if name not in mask_of]
    notes = list(files.notes)
    if lonely and unlabelled == "skip":
        first = ", ".join(path.name for path in lonely[:3])
        notes.append(f"{folders.images}: {len(lonely)} images without a mask are left out ({first}).")
    elif lonely:
        problems += [
            f"{path}: no mask of this name in {folders.masks}. Add it, or remove the image; {SKIP}." for path in lonely
        ]
    for mask in masks.values():
        if mask not in used:
            problems.append(f"{mask}: no image of this name in {folders.images}. Add it, or remove the mask.")
    return SplitFiles(matched, problems, notes)


def owners(files: Files) -> dict[str, str | None]:
    """Return the name of the image of each mask, by the mask's name; None if there is no such image."""
    lookup = Lookup(files.images)
    return {name: lookup.owner(name) for name in files.masks}


def fits(files: Files) -> bool:
    """Return whether any mask has an image."""
    return any(name is not None for name in owners(files).values())


def none_fits(files: Files) -> str:
    """Return the problem of masks of which none has the name of an image, with the option that would pair them."""
    folders, masks = files.where, files.masks
    name, mask = next(iter(files.images)), next(iter(masks.values()))
    file = mask.name if isinstance(mask, Path) else str(mask)
    return (
        f"{folders.masks}: none of its {len(masks)} masks has the name of an image of {folders.images} "
        f"({file}, {files.images[name].name}). The mask of x.jpg is x.png or x_mask.png: rename the masks"
        f"{advice(files) or '.'}"
    )


def advice(files: Files) -> str:
    """Return the templates that would pair the files of two folders, if their names differ by a constant part."""
    images = {Path(name).name: path for name, path in files.images.items()}
    mask_names = {Path(name).name: path for name, path in files.masks.items() if isinstance(path, Path)}
    found = common_template(list(images), list(mask_names))
    if found is None:
        return ""
    image_form, mask_form = found
    suffixes = [next(iter(paths.values())).suffix for paths in (images, mask_names)]
    image_text = f"{files.where.images}/{image_form.replace('{name}', '*')}{suffixes[0]}"
    mask_text = f"{files.where.masks}/{mask_form}{suffixes[1]}"
    either = ""
    if "_" in mask_form:
        either = f" (or {{name}}_{{class}}{suffixes[1]}, if there is a file for each class)"
    return f", or give data.dataset.images='{image_text}' data.dataset.masks='{mask_text}'{either}."


def folder_digest(folders: Iterable[Path]) -> str:
    """Return a digest of the names, sizes and modification times of all files below the folders."""
    digest = hashlib.blake2b(digest_size=16)
    for folder in folders:
        for parent, _, names in walk(folder, []):
            for name in names:
                path = f"{parent}{os.sep}{name}"
                with suppress(OSError):  # a broken link
                    status = os.stat(path)
                    path += f" {status.st_size} {status.st_mtime_ns}"
                digest.update(os.fsencode(path) + b"\n")
    return digest.hexdigest()


def hash_fraction(name: str) -> float:
    """Return a number in [0, 1) that depends on the name only: an added image does not move others between splits."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=6).digest()) / 2**48
