"""What a folder contains, in words, for messages about layouts that are not understood."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from segpipe.data.find import IMAGE_SUFFIXES, walk
from segpipe.data.folder.words import SPLIT_WORDS, role

MOST_FILES = 20_000  # that are looked at
MOST_FOLDERS = 20  # of which the names of files are compared
SHOWN = 6  # folders that a message lists
CONVERT = {  # endings of files that cannot be read, and what to do
    ".nii.gz": "volumes: save each slice as a PNG or TIFF of its own, for example with nibabel",
    ".nii": "volumes: save each slice as a PNG or TIFF of its own, for example with nibabel",
    ".dcm": "DICOM: save each slice as a PNG or TIFF of its own, for example with pydicom",
    ".mat": "Matlab files: save images and masks as PNG, for example with scipy.io.loadmat",
    ".h5": "HDF5: save images and masks as PNG or TIFF",
    ".xml": "XML has boxes, not pixels",
    ".zip": "archives: unpack them",
    ".gz": "archives: unpack them",
    ".tar": "archives: unpack them",
    ".parquet": "tables: save images and masks as files",
}

LONG = sorted((word for words in SPLIT_WORDS.values() for word in words if len(word) > 2), key=len, reverse=True)
LONG_SPLIT = re.compile(rf"(?<![a-z])(?:{'|'.join(LONG)})(?![a-z])", re.IGNORECASE)


class Seen(NamedTuple):
    """The files of one folder: its path below the root, and the names without ending, by ending."""

    folder: str
    stems: dict[str, list[str]]


def look_around(root: Path) -> list[Seen]:
    """Return what is in each folder at and below a root that has files; at most MOST_FILES files are looked at."""
    found, number = [], 0
    for parent, parts, names in walk(root, []):
        stems: dict[str, list[str]] = {}
        for name in names:
            if os.path.isfile(f"{parent}{os.sep}{name}"):
                suffix = ".nii.gz" if name.lower().endswith(".nii.gz") else os.path.splitext(name)[1].lower()
                stems.setdefault(suffix, []).append(name[: len(name) - len(suffix)])
        if stems:
            found.append(Seen("/".join(parts), stems))
        number += len(names)
        if number > MOST_FILES:
            break
    return found


def contents(root: Path) -> str:
    """Return the folders at and below a root with the number of files of each ending, in words."""
    found = look_around(root)
    parts = []
    for seen in found[:SHOWN]:
        counts = ", ".join(f"{len(names)} {suffix or 'without ending'}" for suffix, names in seen.stems.items())
        parts.append(f"{seen.folder or '.'}/ ({counts})")
    more = f" and {len(found) - SHOWN} more folders" if len(found) > SHOWN else ""
    return (", ".join(parts) + more) or "nothing"


class Group(NamedTuple):
    """The images of one ending in one folder. place: the folder as the start of a template, without its split."""

    folder: str
    suffix: str
    names: list[str]
    place: str
    split: str | None


def nearest_layout(root: Path) -> str:
    """Return a sentence with the option by which the nearest layout would be understood, or what to convert."""
    groups = [
        Group(seen.folder, suffix, names, *with_split(seen.folder))
        for seen in look_around(root)[:MOST_FOLDERS]
        for suffix, names in seen.stems.items()
        if suffix in IMAGE_SUFFIXES | {".gif"}
    ]
    if not groups:
        return unreadable_files(root)
    if len({group.split for group in groups} & {"train", *SPLIT_WORDS["val"]}) < 2:  # nothing to put for {split}
        groups = [group._replace(place=f"{group.folder}/" if group.folder else "", split=None) for group in groups]
    options = [
        (likely(images, masks, form), images, masks, form)
        for images in groups
        for masks in groups
        if images is not masks and images.split == masks.split and min(len(images.names), len(masks.names)) > 1
        if (form := common_template(images.names, masks.names)) is not None
    ]
    if options:
        score, images, masks, form = max(options, key=lambda option: option[0])
        place = masks.place
        equal = [other for other, first, _, same in options if (other, first, same) == (score, images, form)]
        if len(equal) > 1 and place.count("/") == 1:  # several folders of masks of the same images
            place = "{class}/"
        return (
            f" The nearest layout: data.root={root} "
            f"data.dataset.images='{images.place}{form[0].replace('{name}', '*')}{images.suffix}' "
            f"data.dataset.masks='{place}{form[1]}{masks.suffix}'."
        )
    most = max(groups, key=lambda group: len(group.names))
    return (
        f" Of the images {most.folder or '.'}/*{most.suffix}, no other files have the names: add masks, or name those "
        f"of x{most.suffix} x_mask.png."
    )


def likely(images: Group, masks: Group, form: tuple[str, str]) -> int:
    """Return a score of how likely one group is the images and another one their masks."""
    score = 2 * is_kind(masks.folder, "masks") + 2 * is_kind(images.folder, "images")
    score -= 2 * is_kind(images.folder, "masks") + 2 * is_kind(masks.folder, "images")
    score += (masks.suffix == ".png") - (images.suffix == ".png") + (images.suffix in (".jpg", ".jpeg"))
    return score + 2 * (len(form[1]) > len(form[0]))


def unreadable_files(root: Path) -> str:
    """Return a sentence with the most frequent ending of files that are not read, and what to do; "" for none."""
    endings: Counter[str] = Counter()
    for seen in look_around(root):
        endings.update({suffix: len(names) for suffix, names in seen.stems.items() if suffix in CONVERT})
    if not endings:
        return ""
    suffix, number = endings.most_common(1)[0]
    return f" {number} files {suffix} are not read ({CONVERT[suffix]})."


def with_split(folder: str) -> tuple[str, str | None]:
    """Return a folder as the start of a template, with ``{split}`` in place of the name of a split, and that name."""
    match = LONG_SPLIT.search(folder)
    if match is None:
        return f"{folder}/" if folder else "", None
    return f"{LONG_SPLIT.sub('{split}', folder, count=1)}/", match[0].lower()


def common_template(images: list[str], masks: list[str]) -> tuple[str, str] | None:
    """Return forms of names, as ``{name}`` and ``{name}_L``, by which at least half of the masks have an image."""
    if not images or not masks:
        return None
    candidates: dict[tuple[str, str], int] = {}
    for mask in masks[:20]:
        for image in images[:2000]:
            if (form := common_form(image, mask)) is not None:
                candidates[form] = candidates.get(form, 0) + 1
    best = max(candidates, key=lambda form: (candidates[form], -len(form[0] + form[1])), default=None)
    return best if best and 2 * candidates[best] >= len(masks[:20]) else None


def common_form(image: str, mask: str) -> tuple[str, str] | None:
    """Return how two names are made of a common one: the image's whole name, or the last number of both."""
    if image in mask:
        return "{name}", mask.replace(image, "{name}", 1)
    numbers = [re.search(r"\d+(?!.*\d)", name) for name in (image, mask)]
    if numbers[0] is None or numbers[1] is None or numbers[0][0] != numbers[1][0]:
        return None
    before, after = (
        name[: number.start()] + "{name}" + name[number.end() :]
        for name, number in zip((image, mask), numbers, strict=True)
        if number is not None
    )
    return before, after


def is_kind(folder: str, kind: str) -> bool:
    """Return whether a part of a folder's path is a word for images or for masks."""
    roles = [role(part) for part in folder.split("/")]
    return any(found is not None and found.kind == kind for found in roles)
