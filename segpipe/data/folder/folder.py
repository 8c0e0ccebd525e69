"""The user's own images and masks: ``data=folder data.root=...``. docs/data.md describes the valid layouts."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Axes, Image, ImageForm, Sample, SegmentationDataset, Split
from segpipe.data.files import check_sizes, read_image, read_image_window, size_problem
from segpipe.data.folder.classes import CLASS_FILES, Classes, from_names, numbers, read_classes
from segpipe.data.folder.encoding import Encoding, by_names, decide, merged
from segpipe.data.folder.layout import Layout, Pair, SplitFiles, Unlabelled, folder_digest
from segpipe.data.folder.options import Options, class_places, layout_of
from segpipe.data.folder.sources import InstanceFile, Instances, NamedSource, with_codes
from segpipe.data.folder.splits import Groups, divide, group_of
from segpipe.data.folder.survey import (
    MaskSource,
    MaskSummary,
    decode,
    decode_window,
    summarise_images,
    summarise_masks,
)
from segpipe.data.forms import ImageSummary, find_form, form_in, joined, size_of
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
        lists: str | None = None,
        fractions: list[float] | None = None,
        classes: list[str] | None = None,
        merge: dict[str, str] | None = None,
        instances: Instances | None = None,
        unlabelled: Unlabelled = "error",
        groups: Groups = "name",
        channels: int | None = None,
        pages: Literal["bands"] | None = None,
        axes: Axes | None = None,
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
        wholes = {
            pair.image: joined({path: contents.images[path] for path in pair.files}, pages=pages == "bands", axes=axes)
            for part in contents.parts.values()
            for pair in part.pairs
        }
        forms = find_form(wholes, channels=channels, pages=pages == "bands", axes=axes)
        self.form = forms.form
        several = [path for pair in self.pairs if pair.more for path in pair.files]
        self.forms = {path: form_in(contents.images[path], pages=pages == "bands", axes=axes) for path in several}
        self.notes += forms.notes
        self.rejected = forms.problems | {path: whole.error for path, whole in wholes.items() if whole.error}
        self.problems += [self.rejected[pair.image] for pair in self.pairs if pair.image in self.rejected]
        if isinstance(self.encoding, UserError):
            self.classes, self.palette = [], []
            self.problems += [str(self.encoding)] if contents.looks or not self.problems else []
            return
        self.classes, self.palette = self.encoding.classes, self.encoding.palette
        self.notes += [self.encoding.note] if self.encoding.note else []
        wrong = [self.encoding.wrong(seen, pair.mask) for pair, seen in zip(self.pairs, self.looks, strict=True)]
        self.problems += [problem for problem in wrong if problem]
        for pair, seen in zip(self.pairs, self.looks, strict=True):
            if pair.image not in self.rejected and not seen.error:
                size = size_of(wholes[pair.image], axes)
                self.problems += filter(None, [size_problem(size, seen.size, pair.image, pair.mask)])
        self.notes += turned_alone(self.pairs, [contents.images[pair.image] for pair in self.pairs], self.looks)
        self.notes += overlaps(split, self.looks)

    def read(self, index: int) -> Sample:
        """Decode an image and its mask, and convert the values of the mask to class indices."""
        return self.read_window(index, slice(None), slice(None))

    def read_bands(self, pair: Pair, rows: slice, columns: slice) -> Image:
        """Return a part of an image (H, W, C): of one file, or of the bands of several. Raises UserError."""
        if pair.image in self.rejected:
            raise UserError(self.rejected[pair.image])
        parts: list[Image] = []
        for path in pair.files:
            form = self.forms[path] if pair.more else self.form
            assert not isinstance(form, str)  # the image is rejected
            parts.append(read_part(path, rows, columns, form))
            if parts[-1].shape[:2] != parts[0].shape[:2]:  # a file has changed
                raise UserError(f"{path}: another size than {pair.image}. Give all channels of an image one size.")
        return np.concatenate(parts, axis=-1) if pair.more else parts[0]

    def read_window(self, index: int, rows: slice, columns: slice) -> Sample:
        """Return a part of a sample. Of TIFF and ``.npy`` files only this part is read and decoded."""
        pair = self.pairs[index]
        image = self.read_bands(pair, rows, columns)
        stored = decode(pair.mask) if is_all(rows, columns) else decode_window(pair.mask, rows, columns)
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
            del summary["overlap"]
            sizes = " ".join(str(path.stat().st_size) for path in pair.files)
            lines.append(f"{pair.name} {group} {sizes} {json.dumps(summary)}")
        return hashlib.blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=8).hexdigest()


def is_all(rows: slice, columns: slice) -> bool:
    """Return whether a part of an image is the whole."""
    return (rows, columns) == (slice(None), slice(None))


def read_part(path: Path, rows: slice, columns: slice, form: ImageForm | None) -> Image:
    """Return a part of an image file, (H, W, C); the whole is decoded as ``read_image`` does."""
    return read_image(path, form) if is_all(rows, columns) else read_image_window(path, rows, columns, form)


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
    image_paths = list(dict.fromkeys(path for part in parts.values() for pair in part.pairs for path in pair.files))
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
