"""The user's own pictures and masks, as they lie: ``data=folder data.root=...``. What is allowed: docs/data.md."""

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
from segpipe.data.folder.layout import Found, Pair, find_layout, folder_digest, hash_fraction, pairs
from segpipe.data.folder.survey import MaskSummary, decode, summarise_masks
from segpipe.errors import UserError

FRACTIONS = [0.7, 0.15, 0.15]
FEW = 20  # groups, of which a split of 15 % may well get none
Groups = Literal["name", "prefix", "folder"]


class SplitFiles(NamedTuple):
    """A split's pictures with masks, and what is wrong with its files."""

    pairs: list[Pair]
    problems: list[str]


class FolderContents(NamedTuple):
    """All splits; a look at each of their masks, and what the masks mean, or why that cannot be known."""

    parts: dict[Split, SplitFiles]
    notes: list[str]
    looks: dict[Path, MaskSummary]
    encoding: Encoding | UserError


_cache: dict[str, FolderContents] = {}  # the last, which is the same for the splits of a data set


class Folder(SegmentationDataset):
    """A split of a folder with pictures and masks, in one of the layouts of ``segpipe.data.folder.layout``.

    images, masks: two folders anywhere, instead of ``root``.
    fractions: shares of train, val and test where there are no folders of these names; None takes FRACTIONS. A group's
        name alone decides where it goes, by a hash: added pictures move no others, and groups stay together.
    classes: names in the order of the masks' indices; None takes ``classes.json``, else what is found in the masks.
    groups: pictures that belong together have the same ``prefix`` (up to the first ``_``), or lie in one ``folder``.
    What is wrong with files is gathered in ``problems``. Raises UserError where there are no files to speak of.
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
        found = find_layout(*(Path(os.path.expanduser(path)) if path else None for path in (root, images, masks)))
        given: Classes | UserError | None
        try:
            given, said = given_classes(classes, root, found)
        except UserError as error:
            given, said = error, []
        whole = read_cached(found, fractions, groups, given)
        self.pairs, self.encoding = whole.parts[split].pairs, whole.encoding
        self.names = [pair.name for pair in self.pairs]
        self.groups = [group_of(pair.name, groups) for pair in self.pairs]
        self.looks = [whole.looks[pair.mask] for pair in self.pairs]
        self.notes, self.problems = [*whole.notes, *said], list(whole.parts[split].problems)
        if isinstance(self.encoding, UserError):
            self.classes, self.palette = [], []
            self.problems += [str(self.encoding)] if whole.looks or not self.problems else []
            return
        self.classes, self.palette = self.encoding.classes, self.encoding.palette
        self.notes += [self.encoding.note] if self.encoding.note else []
        wrong = [self.encoding.wrong(seen, pair.mask) for pair, seen in zip(self.pairs, self.looks, strict=True)]
        self.problems += [problem for problem in wrong if problem]

    def read(self, index: int) -> Sample:
        """Decode a picture and its mask, and translate the mask's values."""
        pair = self.pairs[index]
        image, stored = read_image(pair.image), decode(pair.mask)
        check_sizes(image, stored.values, pair.image, pair.mask)
        if isinstance(self.encoding, UserError):
            raise self.encoding
        return Sample(image, self.encoding.translate(stored, pair.mask))

    def size(self, index: int) -> tuple[int, int]:
        """From the look at the mask."""
        return self.looks[index].size

    def fingerprint(self) -> str:
        """A digest of names, pictures' sizes in bytes, and all masks' values with their numbers of pixels."""
        table = None if isinstance(self.encoding, UserError) else sorted(self.encoding.table.items())
        lines = [json.dumps([self.classes, table])]
        for pair, group, seen in zip(self.pairs, self.groups, self.looks, strict=True):
            lines.append(
                f"{pair.name} {group} {pair.image.stat().st_size} {json.dumps(asdict(seen) | {'error': None})}"
            )
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def read_cached(
    found: Found, fractions: list[float] | None, groups: Groups, given: Classes | UserError | None
) -> FolderContents:
    """What is the same for all splits: read once in a process, and again when a file below the folders changes."""
    folders = dict.fromkeys(folder for both in found.values() for folder in both)
    key = repr([found, fractions, groups, given, str(Path.cwd()), folder_digest(folders)])
    if key in _cache:
        return _cache[key]
    parts, notes = divide(found, fractions, groups)
    paths = list(dict.fromkeys(pair.mask for part in parts.values() for pair in part.pairs))
    looks = summarise_masks(paths)
    encoding: Encoding | UserError
    try:
        if isinstance(given, UserError):
            raise given
        encoding = decide(looks, paths, given)
    except UserError as error:
        encoding = error
    whole = FolderContents(parts, notes, dict(zip(paths, looks, strict=True)), encoding)
    _cache.clear()
    if not any(seen.error for seen in looks):  # which may be of a moment
        _cache[key] = whole
    return whole


def divide(found: Found, fractions: list[float] | None, groups: Groups) -> tuple[dict[Split, SplitFiles], list[str]]:
    """Each split's pictures, and what is to be said."""
    parts: dict[Split, SplitFiles]
    if "all" in found:
        everything, problems = pairs(found["all"])
        by_name = by_fractions(everything, fractions or FRACTIONS, groups)
        require_nonempty(by_name, found["all"].images, groups)
        parts = {split: SplitFiles(part, problems) for split, part in by_name.items()}
        shares = ", ".join(f"{split} {len(part)}" for split, part in by_name.items())
        notes = [f"no folders train and val: split by name into {shares} (data.dataset.fractions)."]
    elif fractions is not None:
        raise UserError(
            f"data.dataset.fractions={fractions}: there are folders {', '.join(found)}, which say what goes where. "
            f"Leave it out."
        )
    else:
        parts, notes = {split: SplitFiles(*pairs(found[split])) for split in get_args(Split) if split in found}, []
    if "test" not in parts:
        notes.append("there are no test pictures with masks: val serves as test, too, which flatters the test score.")
        parts["test"] = parts["val"]
    return parts, notes


def require_nonempty(by_name: dict[Split, list[Pair]], images: Path, groups: Groups) -> None:
    """Raise UserError where there are pictures, and none of them goes to one of the splits."""
    empty = next((split for split, part in by_name.items() if not part), None)
    everything = [pair for part in by_name.values() for pair in part]
    if empty is None or not everything:
        return
    number = len({group_of(pair.name, groups) for pair in everything})
    if groups != "name" and number < FEW:
        raise UserError(
            f"{images}: by data.dataset.groups={groups}, its {len(everything)} pictures are {number} "
            f"group{'s' if number > 1 else ''}, and none goes to {empty}: a group is never divided. Take another of "
            f"{', '.join(get_args(Groups))}, or make folders train and val."
        )
    raise UserError(
        f"{images}: of {len(everything)} pictures in {number} groups (data.dataset.groups={groups}), none goes to "
        f"{empty} by its name. Raise its share in data.dataset.fractions, or make folders train and val."
    )


def by_fractions(everything: list[Pair], fractions: list[float], groups: Groups) -> dict[Split, list[Pair]]:
    """Each pair where its group's name puts it."""
    if len(fractions) not in (2, 3) or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"data.dataset.fractions={fractions}: allowed are two or three numbers above 0 that add up to 1 (train, "
            f"val and test), 0.7, 0.15 and 0.15, say."
        )
    bounds = [0.0, fractions[0], fractions[0] + fractions[1], 1.0]
    splits = get_args(Split)[: len(fractions)]
    if len(fractions) == 2:
        bounds[2] = 1.0
    places = [hash_fraction(group_of(pair.name, groups)) for pair in everything]
    return {
        name: [pair for pair, at in zip(everything, places, strict=True) if low <= at < high]
        for name, low, high in zip(splits, bounds, bounds[1:], strict=False)
    }


def group_of(name: str, groups: Groups) -> str:
    """What a picture belongs to."""
    folder, _, last = name.rpartition("/")
    if groups == "folder":
        return folder or "."
    return f"{folder}/{last.partition('_')[0]}" if groups == "prefix" else name


def given_classes(names: list[str] | None, root: str | None, found: Found) -> tuple[Classes | None, list[str]]:
    """The classes that are stated, and what is to be said; None where none are."""
    places = [Path(os.path.expanduser(root))] if root else []
    for split, folders in found.items():  # ROOT/train/masks, or ROOT/masks/train
        places += [] if split == "all" else [folders.masks.parent.parent]
        places += [folders.masks.parent]
    path = next((place / "classes.json" for place in places if (place / "classes.json").is_file()), None)
    if names is not None:
        said = [f"data.dataset.classes is given: {path} is not read."] if path else []
        return from_names(names, "data.dataset.classes"), said
    return (read_classes(path) if path else None), []
