"""What a folder contains, in words, for messages about layouts that are not understood."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from segpipe.data.find import IMAGE_SUFFIXES, walk
from segpipe.data.folder.layout import common_template
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


def nearest_layout(root: Path) -> str:
    """Return a sentence with the option by which the nearest layout would be understood, or what to convert."""
    found = look_around(root)
    endings = Counter(dict.fromkeys(CONVERT, 0))
    for seen in found:
        endings.update({suffix: len(names) for suffix, names in seen.stems.items() if suffix in CONVERT})
    suffix, number = endings.most_common(1)[0]
    images = [
        (seen.folder, suffix, names)
        for seen in found[:MOST_FOLDERS]
        for suffix, names in seen.stems.items()
        if suffix in IMAGE_SUFFIXES | {".gif"}
    ]
    if not images:
        return f" {number} files {suffix} are not read ({CONVERT[suffix]})." if number else ""
    best: tuple[int, str] = (0, "")
    for first, image_suffix, image_names in images:
        for second, mask_suffix, mask_names in images:
            if (first, image_suffix) == (second, mask_suffix) or with_split(first)[1] != with_split(second)[1]:
                continue
            form = common_template(image_names, mask_names)
            if form is None or image_suffix == ".gif":
                continue
            score = 4 + 2 * is_kind(second, "masks") + 2 * is_kind(first, "images") - 2 * is_kind(first, "masks")
            score += (mask_suffix == ".png") - (image_suffix == ".png") + 2 * (len(form[1]) > len(form[0]))
            if score > best[0]:
                star = form[0].replace("{name}", "*")
                best = (
                    score,
                    f"data.dataset.images='{with_split(first)[0]}{star}{image_suffix}' "
                    f"data.dataset.masks='{with_split(second)[0]}{form[1]}{mask_suffix}'",
                )
    if best[1]:
        return f" The nearest layout: data.root={root} {best[1]}."
    folder, suffix, _ = max(images, key=lambda seen: len(seen[2]))
    return (
        f" The only images are {folder or '.'}/*{suffix}, and no other files have their names: add masks, or name "
        f"those of x{suffix} x_mask.png."
    )


def with_split(folder: str) -> tuple[str, str | None]:
    """Return a folder as the start of a template, with ``{split}`` in place of the name of a split, and that name."""
    match = LONG_SPLIT.search(folder)
    if match is None:
        return f"{folder}/" if folder else "", None
    return f"{LONG_SPLIT.sub('{split}', folder, count=1)}/", match[0].lower()


def is_kind(folder: str, kind: str) -> bool:
    """Return whether a part of a folder's path is a word for images or for masks."""
    roles = [role(part) for part in folder.split("/")]
    return any(found is not None and found.kind == kind for found in roles)
