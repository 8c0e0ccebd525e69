"""The splits of a data set: those that its layout has, or a division by name."""

from pathlib import Path
from typing import Literal, get_args

from segpipe.data.dataset import Split
from segpipe.data.folder.layout import Layout, Pair, Part, SplitFiles, Unlabelled, hash_fraction, match
from segpipe.errors import UserError

FRACTIONS = [0.7, 0.15, 0.15]
FEW = 20  # groups: with fewer, a split of 15 % may get none
Groups = Literal["name", "prefix", "folder"]


def divide(
    layout: Layout, fractions: list[float] | None, groups: Groups, unlabelled: Unlabelled = "error"
) -> tuple[dict[Split, SplitFiles], list[str]]:
    """Return the pairs of each split, and notes. Raises UserError for ``fractions`` beside folders of splits."""
    given = {part: match(files, unlabelled) for part, files in layout.parts.items()}
    parts: dict[Split, SplitFiles] = {split: given[split] for split in get_args(Split) if split in given}
    notes = list(dict.fromkeys([*layout.notes, *(note for files in given.values() for note in files.notes)]))
    whole: Part | None = next((part for part in ("all", "trainval") if part in given), None)
    if whole is None and fractions is not None:
        raise UserError(
            f"data.dataset.fractions={fractions}: the folders {', '.join(layout.parts)} define the splits already. "
            f"Leave it out."
        )
    if whole is not None:
        everything, problems, _ = given[whole]
        by_name = by_fractions(everything, shares_of(whole, fractions), groups)
        require_nonempty(by_name, layout.parts[whole].where.images, groups)
        parts |= {split: SplitFiles(part, problems, []) for split, part in by_name.items()}
        shares = ", ".join(f"{split} {len(part)}" for split, part in by_name.items())
        what = "no folders train and val" if whole == "all" else "there is no val: train is"
        notes.append(f"{what}{':' if whole == 'all' else ''} split by name into {shares} (data.dataset.fractions).")
    if missing := [split for split in get_args(Split)[:2] if split not in parts]:
        raise UserError(
            f"There are no images and masks of {missing[0]}, but of {', '.join(parts)}. Add them; or give patterns "
            f"without {{split}}, to split all images by data.dataset.fractions."
        )
    if "test" not in parts:
        notes.append("there are no test images with masks: val is used as test too, so the test score is optimistic.")
        parts["test"] = parts["val"]
    return parts, notes


def shares_of(whole: Part, fractions: list[float] | None) -> list[float]:
    """Return the shares by which images are divided. If there are test images, those of train and val add up to 1."""
    if whole == "all" or (fractions is not None and len(fractions) != 3):
        return fractions or FRACTIONS
    train, val, _ = fractions or FRACTIONS
    return [train / (train + val), val / (train + val)]


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
