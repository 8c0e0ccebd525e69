"""The user's own images and masks: ``data=folder data.root=...``. docs/data.md describes the valid layouts."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Axes, Sample, SegmentationDataset, Split
from segpipe.data.files import check_sizes, read_image, read_image_window
from segpipe.data.folder.classes import Classes, from_names, numbers, read_classes
from segpipe.data.folder.encoding import Encoding, decide
from segpipe.data.folder.layout import Layout, Pair, find_layout, folder_digest, hash_fraction, pairs
from segpipe.data.folder.survey import MaskSummary, decode, decode_window, summarise_images, summarise_masks
from segpipe.data.forms import ImageSummary, find_form
from segpipe.errors import UserError

FRACTIONS = [0.7, 0.15, 0.15]
FEW = 20  # groups: with fewer, a split of 15 % may get none
Groups = Literal["name", "prefix", "folder"]


class SplitFiles(NamedTuple):
    """The image and mask pairs of a split, and the problems of its files."""

    pairs: list[Pair]
    problems: list[str]


class FolderContents(NamedTuple):
    """All splits, the summaries of their files, and the encoding of the masks, or the error of finding it."""

    parts: dict[Split, SplitFiles]
    notes: list[str]
    looks: dict[Path, MaskSummary]
    images: dict[Path, ImageSummary]
    encoding: Encoding | UserError


_cache: dict[str, FolderContents] = {}  # the last contents read; all splits of a data set share them


class Folder(SegmentationDataset):
    """A split of a folder with images and masks, in one of the layouts of ``segpipe.data.folder.layout``.

    root: the folder. images, masks: two folders anywhere, instead of ``root``.
    fractions: shares of train, val and test if there are no folders of these names; None: FRACTIONS. A hash of its name
        assigns each group to a split: added images do not move others, and groups stay together.
    classes: names in the order of the masks' indices; None: from ``classes.json``, else from the values in the masks.
    groups: images that belong together have the same ``prefix`` (up to the first ``_``), or lie in the same ``folder``;
        ``name``: each image is a group.
    channels: bands of each image; None: from the files. pages: ``bands``: the pages of each TIFF are the bands of one
        image. axes: order of the axes of ``.npy`` files; None: from their shapes.

    ``problems`` lists the errors in the files. Raises UserError if the folders are missing or invalid.
    """

    def __init__(
        self,
        *,
        split: Split,
        root: str | None = None,
        images: str | None = None,
        masks: str | None = None,
        fractions: list[float] | None = None,
        classes: list[str] | None = None,
        groups: Groups = "name",
        channels: int | None = None,
        pages: Literal["bands"] | None = None,
        axes: Axes | None = None,
    ) -> None:
        layout = find_layout(*(Path(os.path.expanduser(path)) if path else None for path in (root, images, masks)))
        given: Classes | UserError | None
        try:
            given, class_notes = given_classes(classes, root, layout)
        except UserError as error:
            given, class_notes = error, []
        contents = read_cached(layout, fractions, groups, given)
        self.pairs, self.encoding = contents.parts[split].pairs, contents.encoding
        self.names = [pair.name for pair in self.pairs]
        self.groups = [group_of(pair.name, groups) for pair in self.pairs]
        self.looks = [contents.looks[pair.mask] for pair in self.pairs]
        self.notes, self.problems = [*contents.notes, *class_notes], list(contents.parts[split].problems)
        summaries = [contents.images[pair.image] for pair in self.pairs]
        self.problems += [summary.error for summary in summaries if summary.error]
        forms = find_form(contents.images, channels=channels, pages=pages == "bands", axes=axes)
        self.form = forms.form
        self.notes += forms.notes
        self.rejected = forms.problems
        self.problems += [forms.problems[pair.image] for pair in self.pairs if pair.image in forms.problems]
        if isinstance(self.encoding, UserError):
            self.classes, self.palette = [], []
            self.problems += [str(self.encoding)] if contents.looks or not self.problems else []
            return
        self.classes, self.palette = self.encoding.classes, self.encoding.palette
        self.notes += [self.encoding.note] if self.encoding.note else []
        wrong = [self.encoding.wrong(seen, pair.mask) for pair, seen in zip(self.pairs, self.looks, strict=True)]
        self.problems += [problem for problem in wrong if problem]
        self.notes += turned_alone(self.pairs, summaries, self.looks)

    def read(self, index: int) -> Sample:
        """Decode an image and its mask, and convert the values of the mask to class indices."""
        pair = self.pairs[index]
        if pair.image in self.rejected:
            raise UserError(self.rejected[pair.image])
        image, stored = read_image(pair.image, self.form), decode(pair.mask)
        check_sizes(image, stored.values, pair.image, pair.mask)
        if isinstance(self.encoding, UserError):
            raise self.encoding
        return Sample(image, self.encoding.translate(stored, pair.mask))

    def read_window(self, index: int, rows: slice, columns: slice) -> Sample:
        """Return a part of a sample. Of TIFF and ``.npy`` files only this part is read and decoded."""
        pair = self.pairs[index]
        image = read_image_window(pair.image, rows, columns, self.form)
        stored = decode_window(pair.mask, rows, columns)
        check_sizes(image, stored.values, pair.image, pair.mask)
        if isinstance(self.encoding, UserError):
            raise self.encoding
        return Sample(image, self.encoding.translate(stored, pair.mask))

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width, from the summary of the mask."""
        return self.looks[index].size

    def class_pixels(self) -> NDArray[np.int64] | None:
        """Return the pixels of each class (K,), from the summaries of the masks."""
        if isinstance(self.encoding, UserError) or self.problems:
            return None
        pixels = np.zeros(256, np.int64)
        for seen in self.looks:
            for code, number in zip(self.encoding.codes(seen), (seen.values or {}).values(), strict=True):
                pixels[self.encoding.table[code]] += number
        return pixels[: len(self.classes)]

    def image_files(self) -> list[Path]:
        """Return the paths of the images."""
        return [pair.image for pair in self.pairs]

    def fingerprint(self) -> str:
        """Return a digest of names, image sizes in bytes, and the pixel counts of all values of the masks."""
        table = None if isinstance(self.encoding, UserError) else sorted(self.encoding.table.items())
        lines = [json.dumps([self.classes, table])]
        lines += [f"images {tuple(self.form)}"] if self.form else []  # 8-bit gray and RGB keep the fingerprint they had
        for pair, group, seen in zip(self.pairs, self.groups, self.looks, strict=True):
            summary = asdict(seen) | {"error": None}
            if seen.orientation == 1:  # masks that are not turned keep the fingerprint they had before masks were
                del summary["orientation"]
            lines.append(f"{pair.name} {group} {pair.image.stat().st_size} {json.dumps(summary)}")
        return hashlib.blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=8).hexdigest()


def read_cached(
    layout: Layout, fractions: list[float] | None, groups: Groups, given: Classes | UserError | None
) -> FolderContents:
    """Return the contents of all splits. A process reads them once, and again if a file below the folders changes."""
    folders = dict.fromkeys(folder for both in layout.values() for folder in both)
    key = repr([layout, fractions, groups, given, str(Path.cwd()), folder_digest(folders)])
    if key in _cache:
        return _cache[key]
    parts, notes = divide(layout, fractions, groups)
    paths = list(dict.fromkeys(pair.mask for part in parts.values() for pair in part.pairs))
    looks = summarise_masks(paths)
    encoding: Encoding | UserError
    try:
        if isinstance(given, UserError):
            raise given
        encoding = decide(looks, paths, given)
    except UserError as error:
        encoding = error
    image_paths = list(dict.fromkeys(pair.image for part in parts.values() for pair in part.pairs))
    images = summarise_images(image_paths)
    contents = FolderContents(
        parts, notes, dict(zip(paths, looks, strict=True)), dict(zip(image_paths, images, strict=True)), encoding
    )
    _cache.clear()
    if not any(seen.error for seen in looks) and not any(image.error for image in images):  # which may be temporary
        _cache[key] = contents
    return contents


def turned_alone(pairs: list[Pair], images: list[ImageSummary], masks: list[MaskSummary]) -> list[str]:
    """Return a note if some images have an EXIF orientation and their masks have another, or none."""
    alone = [
        pair.image.name
        for pair, image, mask in zip(pairs, images, masks, strict=True)
        if image.orientation != mask.orientation and not image.error and not mask.error
    ]
    if not alone:
        return []
    return [
        f"{numbers(alone)}: image and mask have different EXIF orientations (or one has none). Each is turned upright "
        f"by its own. If the masks were drawn on images that were not turned, they do not fit: remove the tag."
    ]


def divide(layout: Layout, fractions: list[float] | None, groups: Groups) -> tuple[dict[Split, SplitFiles], list[str]]:
    """Return the pairs of each split, and notes. Raises UserError for ``fractions`` beside folders of splits."""
    parts: dict[Split, SplitFiles]
    if "all" in layout:
        everything, problems = pairs(layout["all"])
        by_name = by_fractions(everything, fractions or FRACTIONS, groups)
        require_nonempty(by_name, layout["all"].images, groups)
        parts = {split: SplitFiles(part, problems) for split, part in by_name.items()}
        shares = ", ".join(f"{split} {len(part)}" for split, part in by_name.items())
        notes = [f"no folders train and val: split by name into {shares} (data.dataset.fractions)."]
    elif fractions is not None:
        raise UserError(
            f"data.dataset.fractions={fractions}: the folders {', '.join(layout)} define the splits already. "
            f"Leave it out."
        )
    else:
        parts, notes = {split: SplitFiles(*pairs(layout[split])) for split in get_args(Split) if split in layout}, []
    if "test" not in parts:
        notes.append("there are no test images with masks: val is used as test too, so the test score is optimistic.")
        parts["test"] = parts["val"]
    return parts, notes


def require_nonempty(by_name: dict[Split, list[Pair]], images: Path, groups: Groups) -> None:
    """Raise UserError if there are images, but a split gets none of them."""
    empty = next((split for split, part in by_name.items() if not part), None)
    everything = [pair for part in by_name.values() for pair in part]
    if empty is None or not everything:
        return
    number = len({group_of(pair.name, groups) for pair in everything})
    if groups != "name" and number < FEW:
        raise UserError(
            f"{images}: with data.dataset.groups={groups}, its {len(everything)} images form {number} "
            f"group{'s' if number > 1 else ''}, and {empty} gets none: groups are not divided. Choose another of "
            f"{', '.join(get_args(Groups))}, or create folders train and val."
        )
    raise UserError(
        f"{images}: of {len(everything)} images in {number} groups (data.dataset.groups={groups}), the hash of "
        f"the name assigns none to {empty}. Raise its share in data.dataset.fractions, or create folders train and val."
    )


def by_fractions(everything: list[Pair], fractions: list[float], groups: Groups) -> dict[Split, list[Pair]]:
    """Assign each pair to a split by the hash of its group's name. Raises UserError for invalid fractions."""
    if len(fractions) not in (2, 3) or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"data.dataset.fractions={fractions}: allowed are two or three numbers above 0 that add up to 1 (train, "
            f"val and test), for example [0.7,0.15,0.15]."
        )
    bounds = [0.0, fractions[0], fractions[0] + fractions[1], 1.0]
    splits = get_args(Split)[: len(fractions)]
    if len(fractions) == 2:
        bounds[2] = 1.0
    hashes = [hash_fraction(group_of(pair.name, groups)) for pair in everything]
    return {
        name: [pair for pair, fraction in zip(everything, hashes, strict=True) if low <= fraction < high]
        for name, low, high in zip(splits, bounds, bounds[1:], strict=False)
    }


def group_of(name: str, groups: Groups) -> str:
    """Return the group of an image."""
    folder, _, last = name.rpartition("/")
    if groups == "folder":
        return folder or "."
    return f"{folder}/{last.partition('_')[0]}" if groups == "prefix" else name


def given_classes(names: list[str] | None, root: str | None, layout: Layout) -> tuple[Classes | None, list[str]]:
    """Return the classes that the user gave, or None, and notes. Raises UserError if they are invalid."""
    folders_to_search = [Path(os.path.expanduser(root))] if root else []
    for split, folders in layout.items():  # ROOT/train/masks, or ROOT/masks/train
        folders_to_search += [] if split == "all" else [folders.masks.parent.parent]
        folders_to_search += [folders.masks.parent]
    for folders in layout.values():  # beside the files themselves
        folders_to_search += [folders.masks, folders.images]
    candidates = [folder / "classes.json" for folder in dict.fromkeys(folders_to_search)]
    paths = [path for path in candidates if os.path.lexists(path)]
    if names is not None:
        notes = [f"data.dataset.classes is given: {path} is not read." for path in paths[:1]]
        return from_names(names, "data.dataset.classes"), notes
    notes = [f"{path} is not read: {paths[0]} is." for path in paths[1:2]]
    return (read_classes(paths[0]) if paths else None), notes
