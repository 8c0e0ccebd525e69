"""The user's own pictures and masks, as they lie: ``data=folder data.root=...``. What is allowed: docs/data.md."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

from segpipe.data.classes import Classes, listed, read_classes
from segpipe.data.dataset import Sample, SegmentationDataset, Split
from segpipe.data.encoding import Encoding, decide
from segpipe.data.files import check_sizes, read_image
from segpipe.data.layout import Folders, Pair, find, pairs, place
from segpipe.data.survey import decode, survey
from segpipe.errors import UserError

FRACTIONS = [0.7, 0.15, 0.15]
Groups = Literal["name", "prefix", "folder"]


class Folder(SegmentationDataset):
    """A split of a folder with pictures and masks, in one of the layouts of ``segpipe.data.layout``.

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
        found = find(*(Path(path) if path else None for path in (root, images, masks)))
        everything, mine, notes = divide(found, split, fractions, groups)
        self.pairs, problems = mine
        self.names = [pair.name for pair in self.pairs]
        self.groups = [group_of(pair.name, groups) for pair in self.pairs]
        paths = [pair.mask for pair in everything]
        looks = dict(zip(paths, survey(paths), strict=True))
        self.looks = [looks[pair.mask] for pair in self.pairs]
        self.encoding: Encoding | UserError
        try:
            given, said = given_classes(classes, root, found)
            self.encoding = decide(list(looks.values()), paths, given)
            self.classes, self.palette = self.encoding.classes, self.encoding.palette
            notes += [*said, *([self.encoding.note] if self.encoding.note else [])]
            wrong = [self.encoding.wrong(seen, pair.mask) for pair, seen in zip(self.pairs, self.looks, strict=True)]
            problems += [problem for problem in wrong if problem]
        except UserError as error:
            self.encoding, self.classes, self.palette = error, [], []
            problems += [str(error)] if everything or not problems else []
        self.notes, self.problems = notes, problems

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


def divide(
    found: dict[Split, Folders] | Folders, split: Split, fractions: list[float] | None, groups: Groups
) -> tuple[list[Pair], tuple[list[Pair], list[str]], list[str]]:
    """All pairs of all splits; those of one split with what is wrong with them; and what is to be said."""
    if fractions is not None and not isinstance(found, Folders):
        raise UserError(
            f"data.dataset.fractions={fractions}: there are folders {', '.join(found)}, which say what goes where. "
            f"Leave it out."
        )
    if isinstance(found, Folders):
        everything, problems = pairs(found)
        parts = by_fractions(everything, fractions or FRACTIONS, groups)
        wrong = dict.fromkeys(get_args(Split), problems)
        shares = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        notes = [f"no folders train and val: split by name into {shares} (data.dataset.fractions)."]
        if everything and (empty := [name for name, part in parts.items() if not part]):
            raise UserError(
                f"{found.images}: of {len(everything)} pictures, none goes to {empty[0]} by its name. Raise its share "
                f"in data.dataset.fractions, or make folders train and val."
            )
    else:
        read = {name: pairs(folders) for name, folders in found.items()}
        parts = {name: part for name, (part, _) in read.items()}
        wrong = {name: problems for name, (_, problems) in read.items()}
        everything, notes = [pair for part in parts.values() for pair in part], []
    if "test" not in parts:
        notes.append("there are no test pictures with masks: val serves as test, too, which flatters the test score.")
        parts["test"], wrong["test"] = parts["val"], wrong["val"]
    return everything, (parts[split], list(wrong[split])), notes


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
    places = [place(group_of(pair.name, groups)) for pair in everything]
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


def given_classes(
    names: list[str] | None, root: str | None, found: dict[Split, Folders] | Folders
) -> tuple[Classes | None, list[str]]:
    """The classes that are stated, and what is to be said; None where none are."""
    if isinstance(found, Folders):
        places = [found.masks.parent]
    else:  # ROOT/train/masks, or ROOT/masks/train
        places = [place for folders in found.values() for place in (folders.masks.parent.parent, folders.masks.parent)]
    places = [Path(root), *places] if root else places
    path = next((place / "classes.json" for place in places if (place / "classes.json").is_file()), None)
    if names is not None:
        said = [f"data.dataset.classes is given: {path} is not read."] if path else []
        return listed(names, "data.dataset.classes"), said
    return (read_classes(path) if path else None), []
