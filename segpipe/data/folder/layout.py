"""Find the folders of images and masks below the user's folder, and pair images with masks."""

import hashlib
import os
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from segpipe.data.dataset import Split
from segpipe.data.find import IMAGE_SUFFIXES, images_below, same_letters, walk
from segpipe.errors import UserError

SPELLINGS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
    "images": ("images", "image", "imgs", "img"),
    "masks": ("masks", "mask", "labels", "annotations"),
}
ENDINGS = ("_mask", "-mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt")  # x_mask.png: of x.jpg
MASK_SUFFIXES = {*IMAGE_SUFFIXES, ".gif"}
LAYOUTS = (
    "ROOT/train/images and ROOT/train/masks (likewise val, test), or ROOT/images and ROOT/masks; any other two folders "
    "as data.dataset.images=FOLDER data.dataset.masks=FOLDER"
)


class Pair(NamedTuple):
    """The paths of an image and its mask; name: the path below the folder of images, without suffix."""

    name: str
    image: Path
    mask: Path


class Folders(NamedTuple):
    """A folder of images and a folder of masks."""

    images: Path
    masks: Path


Layout = dict[Split | Literal["all"], Folders]  # "all" only, or some of the splits


def find_layout(root: Path | None, images: Path | None, masks: Path | None) -> Layout:
    """Return the folders of each split, or of ``all`` images and masks. Raises UserError if there are none."""
    if (images is None) != (masks is None):
        raise UserError("data.dataset.images and data.dataset.masks belong together: give both, or only data.root.")
    if images is not None and masks is not None:
        for key, path in (("images", images), ("masks", masks)):
            if not path.is_dir():
                raise UserError(f"data.dataset.{key}={path}: there is no such folder.")
        return split_dirs(Folders(images, masks))
    if root is None:
        raise UserError(f"data=folder requires data.root=FOLDER. Allowed is {LAYOUTS}.")
    if not root.is_dir():
        raise UserError(f"data.root={root}: there is no such folder.")
    both = image_mask_dirs(root)
    if find_dir(root, "train") or (both is None and (find_dir(root, "val") or find_dir(root, "test"))):
        return by_split({split: find_dir(root, split) for split in get_args(Split)}, root)
    if both is None:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise UserError(
            f"{root}: contains neither images and masks nor train and val, but {found}. Allowed is {LAYOUTS}."
        )
    return split_dirs(both)


def split_dirs(whole: Folders) -> Layout:
    """Return the folders of each split below those of images and masks, if there are any; else ``all``."""
    folders_by_split: Layout = {}
    for split in get_args(Split):
        images, masks = find_dir(whole.images, split), find_dir(whole.masks, split)
        if images and masks:
            folders_by_split[split] = Folders(images, masks)
    return require_splits(folders_by_split, whole.images) if folders_by_split else {"all": whole}


def by_split(folders: dict[Split, Path | None], root: Path) -> Layout:
    """Return the folders of images and masks in each split's folder; a test folder without masks is not used."""
    folders_by_split: Layout = {}
    for split, folder in folders.items():
        pair = image_mask_dirs(folder) if folder else None
        if pair:
            folders_by_split[split] = pair
        elif folder and split != "test":
            raise UserError(f"{folder}: does not contain folders images and masks. Allowed is {LAYOUTS}.")
    return require_splits(folders_by_split, root)


def require_splits(layout: Layout, root: Path) -> Layout:
    """Return the layout. Raises UserError if train or val is missing."""
    for split in get_args(Split)[:2]:
        if split not in layout:
            raise UserError(
                f"{root}: no folder {split}. Move some of the images and masks there; or move all to ROOT/images and "
                f"ROOT/masks, to split them by data.dataset.fractions."
            )
    return layout


def find_dir(folder: Path, name: str) -> Path | None:
    """Return the folder below ``folder`` with one of the spellings of ``name``, or None."""
    return next((folder / word for word in SPELLINGS[name] if (folder / word).is_dir()), None)


def image_mask_dirs(folder: Path) -> Folders | None:
    """Return the folders of images and masks below ``folder``, or None if one is missing."""
    images, masks = find_dir(folder, "images"), find_dir(folder, "masks")
    return Folders(images, masks) if images and masks else None


def pairs(folders: Folders) -> tuple[list[Pair], list[str]]:
    """Pair images with masks of the same relative path (or with one of ENDINGS); return sorted pairs, and problems."""
    images, problems = images_below(folders.images, IMAGE_SUFFIXES)
    masks: dict[str, Path] = {}
    if folders.images == folders.masks:  # one folder for both: files with one of ENDINGS are masks
        masks = {name: path for name, path in images.items() if strip_mask_suffix(name) in images.keys() - {name}}
        images = {name: path for name, path in images.items() if name not in masks}
    else:
        masks, others = images_below(folders.masks, MASK_SUFFIXES)
        problems += others
    if not images or not masks:
        folder = folders.masks if images else folders.images
        kind = "mask" if images else "image"
        return [], [*problems, f"{folder}: contains no {kind} ({', '.join(sorted(IMAGE_SUFFIXES))})."]
    by_letters = {same_letters(name): name for name in images}
    owner = {name: image_of(name, images, by_letters) for name in masks}
    mask_of = {owner[name]: path for name, path in reversed(masks.items()) if owner[name] != name}
    mask_of |= {owner[name]: path for name, path in masks.items() if owner[name] == name}  # an equal name has priority
    matched = [Pair(name, path, mask_of[name]) for name, path in images.items() if name in mask_of]
    if not matched:
        return [], [
            *problems,
            f"{folders.masks}: none of its {len(masks)} masks has the name of an image of {folders.images} "
            f"({next(iter(masks.values())).name}, {next(iter(images.values())).name}). The mask of x.jpg is x.png or "
            f"x_mask.png: rename the masks.",
        ]
    used = {pair.mask for pair in matched}
    for name, path in images.items():
        if name not in mask_of:
            problems.append(f"{path}: no mask of this name in {folders.masks}. Add it, or remove the image.")
    for path in masks.values():
        if path not in used:
            problems.append(f"{path}: no image of this name in {folders.images}. Add it, or remove the mask.")
    return matched, problems


def image_of(mask: str, images: Container[str], by_letters: Mapping[str, str]) -> str:
    """Return the name of the image of a mask, or the mask's name without its ending where there is no image.

    by_letters: the name of each image by ``same_letters``.
    """
    plain = strip_mask_suffix(mask)
    names = [mask, by_letters.get(same_letters(mask), mask), plain, by_letters.get(same_letters(plain), plain)]
    return next((name for name in names if name in images), plain)


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


def strip_mask_suffix(name: str) -> str:
    """Return the name of a mask without the ending that marks masks."""
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def hash_fraction(name: str) -> float:
    """Return a number in [0, 1) that depends on the name only: an added image does not move others between splits."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=6).digest()) / 2**48
