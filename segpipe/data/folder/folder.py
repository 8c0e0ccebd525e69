"""The user's own images and masks: ``data=folder data.root=...``. docs/data.md describes the valid layouts."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from segpipe.data.dataset import Sample, SegmentationDataset, Split
from segpipe.data.files import check_sizes, read_image
from segpipe.data.folder.classes import Classes, from_names, read_classes
from segpipe.data.folder.encoding import Encoding, decide
from segpipe.data.folder.layout import Layout, Pair, find_layout, folder_digest, hash_fraction, pairs
from segpipe.data.folder.survey import MaskSummary, decode, summarise_masks
from segpipe.errors import UserError

FRACTIONS = [0.7, 0.15, 0.15]
FEW = 20  # groups: with fewer, a split of 15 % may get none
Groups = Literal["name", "prefix", "folder"]


class SplitFiles(NamedTuple):
    """The image and mask pairs of a split, and the problems of its files."""

    pairs: list[Pair]
    problems: list[str]


class FolderContents(NamedTuple):
    """All splits, the summaries of their masks, and the encoding of the masks, or the error of finding it."""

    parts: dict[Split, SplitFiles]
    notes: list[str]
    looks: dict[Path, MaskSummary]
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
        if isinstance(self.encoding, UserError):
            self.classes, self.palette = [], []
            self.problems += [str(self.encoding)] if contents.looks or not self.problems else []
            return
        self.classes, self.palette = self.encoding.classes, self.encoding.palette
        self.notes += [self.encoding.note] if self.encoding.note else []
        wrong = [self.encoding.wrong(seen, pair.mask) for pair, seen in zip(self.pairs, self.looks, strict=True)]
        self.problems += [problem for problem in wrong if problem]

    def read(self, index: int) -> Sample:
        """Decode an image and its mask, and convert the values of the mask to class indices."""
        pair = self.pairs[index]
        image, stored = read_image(pair.image), decode(pair.mask)
        check_sizes(image, stored.values, pair.image, pair.mask)
        if isinstance(self.encoding, UserError):
            raise self.encoding
        return Sample(image, self.encoding.translate(stored, pair.mask))

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width, from the summary of the mask."""
        return self.looks[index].size

    def fingerprint(self) -> str:
        """Return a digest of names, image sizes in bytes, and the pixel counts of all values of the masks."""
        table = None if isinstance(self.encoding, UserError) else sorted(self.encoding.table.items())
        lines = [json.dumps([self.classes, table])]
        for pair, group, seen in zip(self.pairs, self.groups, self.looks, strict=True):
            lines.append(
                f"{pair.name} {group} {pair.image.stat().st_size} {json.dumps(asdict(seen) | {'error': None})}"
            )
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


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
    contents = FolderContents(parts, notes, dict(zip(paths, looks, strict=True)), encoding)
    _cache.clear()
    if not any(seen.error for seen in looks):  # which may be temporary
        _cache[key] = contents
    return contents


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
    path = next((folder / "classes.json" for folder in folders_to_search if (folder / "classes.json").is_file()), None)
    if names is not None:
        notes = [f"data.dataset.classes is given: {path} is not read."] if path else []
        return from_names(names, "data.dataset.classes"), notes
    return (read_classes(path) if path else None), []
