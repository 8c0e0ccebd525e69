"""The user's own images and masks: ``data=folder data.root=...``. docs/data.md describes the valid layouts."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Image, Sample, SegmentationDataset, Split
from segpipe.data.files import check_sizes, read_image, read_image_header
from segpipe.data.folder.classes import CLASS_FILES, Classes, from_names, numbers, read_classes
from segpipe.data.folder.encoding import Encoding, by_names, decide, merged
from segpipe.data.folder.layout import Layout, Pair, SplitFiles, Unlabelled, folder_digest
from segpipe.data.folder.options import Options, class_places, layout_of
from segpipe.data.folder.sources import InstanceFile, Instances, NamedSource, with_codes
from segpipe.data.folder.splits import Groups, divide, group_of
from segpipe.data.folder.survey import ImageSummary, MaskSource, MaskSummary, decode, summarise_images, summarise_masks
from segpipe.errors import UserError


class FolderContents(NamedTuple):
    """All splits, the summaries of their files, and the encoding of the masks, or the error of finding it."""

    parts: dict[Split, SplitFiles]
    notes: list[str]
    looks: dict[Path | MaskSource, MaskSummary]
    images: dict[Path, ImageSummary]
    encoding: Encoding | UserError


_cache: dict[str, FolderContents] = {}  # the last contents read; all splits of a data set share them


class Folder(SegmentationDataset):
    """A split of a folder with images and masks, in one of the layouts of docs/data.md.

    root: the folder. images, masks: two folders anywhere, or templates below ``root`` (``paths.Template``).
    lists: a template of list files, ``ImageSets/Segmentation/{split}.txt``. fractions: shares of train, val and test if
        there are no folders of these names; None: FRACTIONS. A hash of its name assigns each group to a split: added
        images do not move others, and groups stay together.
    classes: names in the order of the masks' indices; None: from ``classes.json``, else from the values in the masks.
    merge: see ``encoding.merged``. instances: see ``sources.InstanceFile``. unlabelled: ``skip`` leaves images out that
        have no mask.
    groups: images that belong together have the same ``prefix`` (up to the first ``_``), or lie in the same ``folder``;
        ``name``: each image is a group.

    ``problems`` lists the errors in the files. Raises UserError if the folders are missing or invalid.
    """

    def __init__(
        self,
        *,
        split: Split,
        root: str | None = None,
        images: str | None = None,
        masks: str | None = None,
        lists: str | None = None,
        fractions: list[float] | None = None,
        classes: list[str] | None = None,
        merge: dict[str, str] | None = None,
        instances: Instances | None = None,
        unlabelled: Unlabelled = "error",
        groups: Groups = "name",
    ) -> None:
        options = Options(root, images, masks, lists)
        given: Classes | UserError | None
        try:
            given, class_notes = given_classes(classes, class_places(options))
        except UserError as error:
            given, class_notes = error, []
        contents = read_cached(options, fractions, groups, given, merge or {}, instances, unlabelled)
        self.pairs, self.encoding = contents.parts[split].pairs, contents.encoding
        self.names = [pair.name for pair in self.pairs]
        self.groups = [group_of(pair.name, groups) for pair in self.pairs]
        self.looks = [contents.looks[pair.mask] for pair in self.pairs]
        self.notes, self.problems = [*contents.notes, *class_notes], list(contents.parts[split].problems)
        summaries = [contents.images[pair.image] for pair in self.pairs]
        files = [contents.images[path] for pair in self.pairs for path in (pair.image, *pair.more)]
        self.problems += [summary.error for summary in files if summary.error]
        if isinstance(self.encoding, UserError):
            self.classes, self.palette = [], []
            self.problems += [str(self.encoding)] if contents.looks or not self.problems else []
            return
        self.classes, self.palette = self.encoding.classes, self.encoding.palette
        self.notes += [self.encoding.note] if self.encoding.note else []
        wrong = [self.encoding.wrong(seen, pair.mask) for pair, seen in zip(self.pairs, self.looks, strict=True)]
        self.problems += [problem for problem in wrong if problem]
        self.notes += turned_alone(self.pairs, summaries, self.looks)
        self.notes += overlaps(split, self.looks)

    def read(self, index: int) -> Sample:
        """Decode an image and its mask, and convert the values of the mask to class indices."""
        pair = self.pairs[index]
        image, stored = read_channels(pair), decode(pair.mask)
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
        for pair, group, seen in zip(self.pairs, self.groups, self.looks, strict=True):
            summary = asdict(seen) | {"error": None}
            if seen.orientation == 1:  # masks that are not turned keep the fingerprint they had before masks were
                del summary["orientation"]
            del summary["overlap"]
            sizes = " ".join(str(path.stat().st_size) for path in (pair.image, *pair.more))
            lines.append(f"{pair.name} {group} {sizes} {json.dumps(summary)}")
        return hashlib.blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=8).hexdigest()


def read_cached(
    options: Options,
    fractions: list[float] | None,
    groups: Groups,
    given: Classes | UserError | None,
    merge: dict[str, str],
    instances: Instances | None,
    unlabelled: Unlabelled,
) -> FolderContents:
    """Return the contents of all splits. A process reads them once, and again if a file below the folders changes."""
    settings = [options, fractions, groups, given, merge, instances, unlabelled]
    key = repr([*settings, str(Path.cwd()), folder_digest(options.folders())])
    if key in _cache:
        return _cache[key]
    layout = layout_of(options)
    parts, notes = divide(layout, fractions, groups, unlabelled)
    parts, looks, encoding = understood(parts, layout, given, merge, instances)
    image_paths = list(
        dict.fromkeys(path for part in parts.values() for pair in part.pairs for path in (pair.image, *pair.more))
    )
    images = summarise_images(image_paths)
    contents = FolderContents(parts, notes, looks, dict(zip(image_paths, images, strict=True)), encoding)
    _cache.clear()
    if not any(seen.error for seen in looks.values()) and not any(
        image.error for image in images
    ):  # which may be temporary
        _cache[key] = contents
    return contents


def understood(
    parts: dict[Split, SplitFiles],
    layout: Layout,
    given: Classes | UserError | None,
    merge: dict[str, str],
    instances: Instances | None,
) -> tuple[dict[Split, SplitFiles], dict[Path | MaskSource, MaskSummary], Encoding | UserError]:
    """Return the splits with masks that can be decoded, the summaries of the masks, and what their values mean."""
    error: UserError | None = given if isinstance(given, UserError) else None
    classes = None if isinstance(given, UserError) else given or layout.classes
    names: list[str] | None = None
    try:
        parts, names = with_sources(parts, instances, classes, layout.order)
    except UserError as other:
        error = error or other
    paths = list(dict.fromkeys(pair.mask for part in parts.values() for pair in part.pairs))
    drawable = names is not None or not any(isinstance(path, NamedSource) for path in paths)
    looks = summarise_masks(paths) if drawable else [MaskSummary() for _ in paths]
    encoding: Encoding | UserError
    try:
        if error is not None:
            raise error
        encoding = by_names(names, looks, classes) if names else decide(looks, paths, classes)
        encoding = merged(encoding, {**(classes.merge if classes else {}), **merge})
    except UserError as other:
        encoding = other
    return parts, dict(zip(paths, looks, strict=True)), encoding


def with_sources(
    parts: dict[Split, SplitFiles], instances: Instances | None, given: Classes | None, order: Sequence[str]
) -> tuple[dict[Split, SplitFiles], list[str] | None]:
    """Return the splits with masks that can be decoded, and the names of the classes where labels name them.

    Raises UserError for ``instances`` of what are no mask files, and for names that are not given.
    """
    masks = list(dict.fromkeys(pair.mask for part in parts.values() for pair in part.pairs))
    named = [mask for mask in masks if isinstance(mask, NamedSource)]
    if instances is None and not named:
        return parts, None
    if instances is not None and named:
        raise UserError(
            f"data.dataset.instances={instances}: the labels ({named[0]}) have classes by name, not numbers of "
            f"objects. Leave it out; data.dataset.merge makes one class of several."
        )
    if named and len(named) < len(masks):
        mask = next(mask for mask in masks if not isinstance(mask, NamedSource))
        raise UserError(f"{mask} is a mask file, but {named[0]} has classes by name. Give all labels in one form.")
    names: list[str] | None = None
    new: dict[Path | MaskSource, Path | MaskSource]
    if named:
        sources, names = with_codes(named, given.names if given else None, order)
        new = dict(sources.items())
    else:
        new = {mask: InstanceFile(mask, instances) for mask in masks if isinstance(mask, Path) and instances}
    changed = {
        split: part._replace(pairs=[pair._replace(mask=new[pair.mask]) for pair in part.pairs])
        for split, part in parts.items()
    }
    return changed, names


def read_channels(pair: Pair) -> Image:
    """Return an image (H, W, C): of one file, or of the bands of several; a gray file has one. Raises UserError."""
    image = read_image(pair.image)
    if not pair.more:
        return image
    bands = []
    for path in (pair.image, *pair.more):
        band = read_image(path)
        if band.shape[:2] != image.shape[:2]:
            raise UserError(f"{path}: another size than {pair.image}. Give all channels of an image one size.")
        bands.append(band[..., :1] if read_image_header(path).bands == 1 else band)
    stacked = np.concatenate(bands, axis=-1)
    if stacked.shape[-1] != 3:
        raise UserError(
            f"{pair.image}: with {len(pair.more)} more files, an image of {stacked.shape[-1]} bands; allowed are "
            f"three. Choose three channels, and move the files of the others out of the folder."
        )
    return stacked


def overlaps(split: Split, looks: Sequence[MaskSummary]) -> list[str]:
    """Return a note if labels of different classes overlap."""
    pixels = sum(seen.overlap for seen in looks)
    number = sum(seen.overlap > 0 for seen in looks)
    if not pixels:
        return []
    return [f"{split}: labels of several classes overlap in {number} masks ({pixels:,} pixels); the later one counts."]


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


def given_classes(names: list[str] | None, places: Sequence[Path]) -> tuple[Classes | None, list[str]]:
    """Return the classes that the user gave, or None, and notes. Raises UserError if they are invalid.

    places: folders that may have a list of classes, the first one counts; ``classes.json`` before lists of other tools.
    """
    candidates = [folder / name for name in CLASS_FILES for folder in dict.fromkeys(places)]
    paths = [path for path in candidates if os.path.lexists(path)]
    if names is not None:
        notes = [f"data.dataset.classes is given: {path} is not read." for path in paths[:1]]
        return from_names(names, "data.dataset.classes"), notes
    notes = [f"{path} is not read: {paths[0]} is." for path in paths[1:2]]
    if paths and paths[0].name != CLASS_FILES[0]:
        notes.append(f"the classes are those of {paths[0]}.")
    return (read_classes(paths[0]) if paths else None), notes
