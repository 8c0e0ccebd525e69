"""Where a folder of the user's own keeps pictures and masks, and which mask is whose."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from segpipe.data.dataset import Split
from segpipe.data.files import IMAGE_SUFFIXES
from segpipe.errors import UserError

SPELLINGS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
    "images": ("images", "image", "imgs", "img"),
    "masks": ("masks", "mask", "labels", "annotations"),
}
ENDINGS = ("_mask", "-mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt")  # x_mask.png is of x.jpg
MASK_SUFFIXES = {*IMAGE_SUFFIXES, ".gif"}
LAYOUTS = (
    "ROOT/train/images and ROOT/train/masks (and so val, test), or ROOT/images and ROOT/masks; any two folders go as "
    "data.dataset.images=FOLDER data.dataset.masks=FOLDER"
)


class Pair(NamedTuple):
    """A picture with its mask; the name is its path below the folder of pictures, without suffix."""

    name: str
    image: Path
    mask: Path


class Folders(NamedTuple):
    """A folder of pictures and one of masks."""

    images: Path
    masks: Path


Found = dict[Split | Literal["all"], Folders]  # "all" alone, or some splits


def find_layout(root: Path | None, images: Path | None, masks: Path | None) -> Found:
    """The folders of each split, or ``all``: the two that hold everything. Raises UserError where there are none."""
    if (images is None) != (masks is None):
        raise UserError("data.dataset.images and data.dataset.masks go together: give both, or data.root alone.")
    if images is not None and masks is not None:
        for key, path in (("images", images), ("masks", masks)):
            if not path.is_dir():
                raise UserError(f"data.dataset.{key}={path}: there is no such folder.")
        return split_dirs(Folders(images, masks))
    if root is None:
        raise UserError(f"data=folder needs data.root=FOLDER. Allowed is {LAYOUTS}.")
    if not root.is_dir():
        raise UserError(f"data.root={root}: there is no such folder.")
    whole = image_mask_dirs(root)
    if find_dir(root, "train") or (whole is None and (find_dir(root, "val") or find_dir(root, "test"))):
        return by_split({split: find_dir(root, split) for split in get_args(Split)}, root)
    if whole is None:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise UserError(
            f"{root}: neither images and masks nor train and val are in it (but {found}). Allowed is {LAYOUTS}."
        )
    return split_dirs(whole)


def split_dirs(whole: Folders) -> Found:
    """The folders of each split below one of pictures and one of masks, if they are divided so; else the two."""
    found: Found = {}
    for split in get_args(Split):
        pictures, labels = find_dir(whole.images, split), find_dir(whole.masks, split)
        if pictures and labels:
            found[split] = Folders(pictures, labels)
    return require_splits(found, whole.images) if found else {"all": whole}


def by_split(folders: dict[Split, Path | None], root: Path) -> Found:
    """The two folders in each split's; a test folder without masks is none."""
    found: Found = {}
    for split, folder in folders.items():
        pair = image_mask_dirs(folder) if folder else None
        if pair:
            found[split] = pair
        elif folder and split != "test":
            raise UserError(f"{folder}: no folders images and masks in it. Allowed is {LAYOUTS}.")
    return require_splits(found, root)


def require_splits(found: Found, root: Path) -> Found:
    """Training and validation pictures there must be; raises UserError where there are none."""
    for split in get_args(Split)[:2]:
        if split not in found:
            raise UserError(
                f"{root}: no folder {split}. Move some of the pictures and masks there; or put all in ROOT/images and "
                f"ROOT/masks, which are split by data.dataset.fractions."
            )
    return found


def find_dir(folder: Path, name: str) -> Path | None:
    """The folder of a name, in one of its spellings, below another."""
    return next((folder / word for word in SPELLINGS[name] if (folder / word).is_dir()), None)


def image_mask_dirs(folder: Path) -> Folders | None:
    """The folders of pictures and masks below another, if both are there."""
    images, masks = find_dir(folder, "images"), find_dir(folder, "masks")
    return Folders(images, masks) if images and masks else None


def pairs(folders: Folders) -> tuple[list[Pair], list[str]]:
    """Pictures with masks of the same path (or with one of ENDINGS behind it), in order; and what is wrong."""
    images, problems = files_below(folders.images, IMAGE_SUFFIXES)
    masks: dict[str, Path] = {}
    if folders.images == folders.masks:  # side by side: what ends as masks do is one
        masks = {name: path for name, path in images.items() if strip_mask_suffix(name) in images.keys() - {name}}
        images = {name: path for name, path in images.items() if name not in masks}
    else:
        masks, others = files_below(folders.masks, MASK_SUFFIXES)
        problems += others
    if not images or not masks:
        folder = folders.masks if images else folders.images
        kind = "mask" if images else "picture"
        return [], [*problems, f"{folder}: no {kind} in it (of {', '.join(sorted(IMAGE_SUFFIXES))})."]
    owner = {name: name if name in images else strip_mask_suffix(name) for name in masks}
    of = {owner[name]: path for name, path in reversed(masks.items()) if owner[name] != name}
    of |= {owner[name]: path for name, path in masks.items() if owner[name] == name}  # the very name goes first
    found = [Pair(name, path, of[name]) for name, path in images.items() if name in of]
    if not found:
        return [], [
            *problems,
            f"{folders.masks}: none of its {len(masks)} masks is named as a picture of {folders.images} is "
            f"({next(iter(masks.values())).name}, {next(iter(images.values())).name}). x.png or x_mask.png goes with "
            f"x.jpg: rename them.",
        ]
    taken = {pair.mask for pair in found}
    for name, path in images.items():
        if name not in of:
            problems.append(f"{path}: no mask of this name in {folders.masks}. Add it, or remove the picture.")
    for path in masks.values():
        if path not in taken:
            problems.append(f"{path}: no picture of this name in {folders.images}. Add it, or remove the mask.")
    return found, problems


def files_below(folder: Path, suffixes: set[str]) -> tuple[dict[str, Path], list[str]]:
    """Name to path of the pictures in and below a folder, hidden ones left out; and what is none or named as another.

    Strings are walked, not paths: several times as fast, and there may be many thousands.
    """
    stems: list[tuple[list[str], str, str]] = []  # by which they are sorted; name; path
    for around, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        parts = list(Path(around).relative_to(folder).parts)
        for name in (*folders, *files):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes and not name.startswith("."):
                stems.append(([*parts, name], "/".join([*parts, stem]), f"{around}{os.sep}{name}"))
    found: dict[str, Path] = {}
    problems = []
    for _, name, path in sorted(stems):
        if not os.path.isfile(path):
            problems.append(f"{path}: a link to nothing, or a folder. Put the file there, or remove it.")
        elif name in found:
            problems.append(f"{path}: the same name as {found[name].name}. Keep one of the two.")
        else:
            found[name] = Path(path)
    return found, problems


def folder_digest(folders: Iterable[Path]) -> str:
    """A digest of the names, sizes and times of all files below some folders, which changes when they do."""
    digest = hashlib.blake2b(digest_size=16)
    for folder in folders:
        for around, _, files in os.walk(folder):
            for name in files:
                path = f"{around}{os.sep}{name}"
                with suppress(OSError):  # a link to nothing
                    found = os.stat(path)
                    path += f" {found.st_size} {found.st_mtime_ns}"
                digest.update(os.fsencode(path) + b"\n")
    return digest.hexdigest()


def strip_mask_suffix(name: str) -> str:
    """A mask's name without what says that it is one."""
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def hash_fraction(name: str) -> float:
    """A number in [0, 1) that the name alone decides: a picture that is added moves no other from split to split."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest()) / 2**48
