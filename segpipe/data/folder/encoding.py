"""From what mask files hold to class indices: which value or colour is which class, found out over all masks at once.

255 means ignored, but in masks of 0 and 255 alone it is the foreground. Which of the two holds is a matter of the whole
data set, not of a file, and it is said (``note``).
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segpipe.data.dataset import IGNORE_INDEX, Mask
from segpipe.data.folder.classes import Classes, colours_for, numbers, rgb, shown
from segpipe.data.folder.survey import GRAY, MOST, DecodedMask, MaskSummary, look
from segpipe.errors import UserError

UNKNOWN = 254  # while a mask is translated: a value that stands for nothing
MANY = 8  # values in a mask that no class stands for; more are a sign of lossy files
MOST_FOUND = 64  # classes that are believed without a list of them
NAMES = ["background", "foreground"]


@dataclass(frozen=True)
class Encoding:
    """What stands for which class: ``table`` from values (or 0xRRGGBB, ``by_colour``) to indices, 255 for ignored."""

    classes: list[str]
    palette: list[tuple[int, int, int]]
    table: dict[int, int]
    by_colour: bool = False
    note: str = ""

    def translate(self, stored: DecodedMask, path: Path) -> Mask:
        """(H, W) class indices. Raises UserError for values that stand for nothing."""
        values = stored.values
        if self.by_colour and stored.kind != "colour":
            values = values.astype(np.int32) * GRAY if stored.palette is None else stored.palette[values]
        mask: Mask
        if values.dtype == np.uint8:
            table = np.full(256, UNKNOWN, np.uint8)
            table[list(self.table)] = list(self.table.values())
            mask = table[values]
        else:
            mask = np.full(values.shape, UNKNOWN, np.uint8)
            for code, label in self.table.items() if self.by_colour else ():
                mask[values == code] = label
        if (mask == UNKNOWN).any():
            raise UserError(self.wrong(look(path), path) or f"{path}: changed while it was read. Start again.")
        return mask

    def wrong(self, seen: MaskSummary, path: Path) -> str | None:
        """What is wrong with a mask, given a look at it; None if nothing is."""
        if seen.error:
            return seen.error
        if seen.values is None:
            return f"{path}: more than a thousand colours, so not a mask{lossy(seen, many=True)}"
        if seen.kind == "colour" and not self.by_colour:
            return f"{path}: a mask in colours, where others hold values. Save it as the others are."
        unknown = sorted(code for code in self.codes(seen) if code not in self.table)
        if not unknown:
            return None
        allowed = shown([code for code, label in self.table.items() if label != IGNORE_INDEX], colour=self.by_colour)
        return (
            f"{path}: {shown(unknown, colour=self.by_colour)} in a mask of {len(self.classes)} classes "
            f"({allowed}){lossy(seen, many=len(unknown) > MANY)}"
        )

    def codes(self, seen: MaskSummary) -> list[int]:
        """A mask's values, as the table has them."""
        return colours(seen) if self.by_colour else list(seen.values or {})


def lossy(seen: MaskSummary, *, many: bool) -> str:
    """What to do about values that stand for nothing."""
    if seen.format in ("JPEG", "WEBP"):
        return f". It is a {seen.format}, which does not keep values: save masks as PNG."
    if many:
        return ". It may have been a JPEG before, or was resized with interpolation: make it anew, as PNG."
    return ". Correct the mask, or name the class: data.dataset.classes, or classes.json."


def no_colours(looks: Sequence[MaskSummary]) -> str:
    """The advice for masks in colours where none are named."""
    codes = sorted({code for seen in looks for code in colours(seen)})
    if len(codes) > MOST_FOUND or any(seen.values is None for seen in looks):
        most = max(looks, key=lambda seen: MOST if seen.values is None else len(seen.values))
        return f", of {len(codes)} colours or more{lossy(most, many=True)}"
    table = {f"class{index}": rgb(code) for index, code in enumerate(codes)}
    return (
        f". Say in classes.json, beside the folder of masks, which colour is which class, with names of your own: "
        f"{json.dumps(table)}"
    )


def decide(looks: Sequence[MaskSummary], paths: Sequence[Path], given: Classes | None) -> Encoding:
    """What the masks' values mean. Raises UserError where that cannot be known."""
    usable = [seen for seen in looks if not seen.error]
    if not usable:
        raise UserError(looks[0].error if looks else "There are no masks.")
    if given is not None and given.by == "colour":
        return by_colours(usable, given)
    coloured = [path for path, seen in zip(paths, looks, strict=True) if seen.kind == "colour"]
    if 2 * len(coloured) > len(usable):
        raise UserError(
            f"{coloured[0]}: a mask in colours, as {len(coloured)} of {len(usable)} are"
            f"{', but classes.json names values' if given and given.by == 'value' else ''}{no_colours(usable)}"
        )
    flat = [seen for seen in usable if seen.kind != "colour" and seen.values is not None]
    if given is not None and given.by == "value":
        return by_values(flat, given)
    if is_binary(flat, len(given.names) if given else None):
        return binary(flat, given)
    return indexed(flat, paths, looks, given)


def values_of(looks: Sequence[MaskSummary]) -> list[int]:
    """All values of some masks."""
    return sorted(set().union(*{tuple(seen.values or ()) for seen in looks}))


def is_binary(flat: Sequence[MaskSummary], number: int | None) -> bool:
    """Whether 255 is the foreground: where more masks hold 0 and 255 alone than hold anything else.

    Raises UserError where some masks say 1 and others 255, and none says both.
    """
    masks = Counter(tuple(seen.values or ()) for seen in flat)
    two = sum(number for values, number in masks.items() if {255} <= {*values} <= {0, 255})
    one = sum(number for values, number in masks.items() if {1} <= {*values} <= {0, 1})
    other = sum(number for values, number in masks.items() if not {*values} <= {0, 255})
    if not two or (number or 2) > 2:
        return False
    if one and one == other:
        raise UserError(
            f"{two} masks hold 0 and 255, {one} hold 0 and 1: is 255 foreground or ignored? Write all masks in one "
            f'way, or say it in classes.json: {{"background": 0, "foreground": 1}} ignores 255.'
        )
    return two > other


def binary(flat: Sequence[MaskSummary], given: Classes | None) -> Encoding:
    """Masks of 0 and 255. 0 is the first class, or the one that classes.json gives 0 or black; 255 is the other."""
    names = given.names if given else NAMES
    names = names if len(names) == 2 else [NAMES[0], names[0]]
    if len(values := values_of(flat)) == 1:
        raise UserError(f"Every pixel of all {len(flat)} masks is {values[0]}: there is nothing to tell apart.")
    zero = int(given is not None and given.codes[1:] == [0])
    read = f"0 is read as {names[zero]}, 255 as {names[1 - zero]}"
    note = f"the masks hold 0 and 255: {read} (elsewhere 255 means ignored)."
    palette = [rgb(code) for code in given.codes] if given and given.by == "colour" else colours_for(2)
    return Encoding(names, palette, {0: zero, 255: 1 - zero}, note=note)


def indexed(
    flat: Sequence[MaskSummary], paths: Sequence[Path], looks: Sequence[MaskSummary], given: Classes | None
) -> Encoding:
    """Masks whose values are class indices, and 255 for ignored."""
    values = values_of(flat)
    labels = [value for value in values if value != IGNORE_INDEX]
    if given is not None:
        names = given.names if len(given.names) > 1 else [NAMES[0], *given.names]
        note = f"0 is read as {names[0]}, 1 as {names[1]}." if len(given.names) == 1 else ""
    elif len(labels) > MOST_FOUND:
        most = max(flat, key=lambda seen: len(seen.values or {}))
        raise UserError(
            f"{paths[looks.index(most)]}: {len(most.values or {})} different values "
            f"({numbers(sorted(most.values or {}))}), {len(labels)} in all masks{lossy(most, many=True)}"
        )
    elif labels != list(range(len(labels))):
        table = {f"class{value}": value for value in labels}
        raise UserError(
            f"The masks hold {shown(labels)}, and nothing says what these are. Name them in classes.json beside the "
            f"folder of masks: {json.dumps(table)}"
        )
    else:
        names = NAMES if len(labels) == 2 else [f"class{label}" for label in labels]
        note = f"classes found in the masks: {', '.join(names)}. To name them: data.dataset.classes=[NAME,NAME,...]"
    if len(labels) < 2:
        raise UserError(
            f"All {len(flat)} masks together hold {', '.join(map(str, values))} alone"
            f"{' (255 is read as ignored)' if IGNORE_INDEX in values else ''}: there is nothing to tell apart."
        )
    palette = shown_palette(flat, len(names))
    return Encoding(names, palette, {**{i: i for i in range(len(names))}, IGNORE_INDEX: IGNORE_INDEX}, note=note)


def by_values(flat: Sequence[MaskSummary], given: Classes) -> Encoding:
    """Masks whose values classes.json names; 255 is ignored unless it is named.

    Where it names 0 and 1, and no mask holds anything but 0 and 255, 255 stands for 1.
    """
    if sorted(given.codes) == [0, 1] and given.ignored is None and set(values_of(flat)) <= {0, 255}:
        return binary(flat, given)
    palette = shown_palette(flat, len(given.names))
    return told_apart(Encoding(given.names, palette, {IGNORE_INDEX: IGNORE_INDEX, **table_of(given)}), flat)


def by_colours(usable: Sequence[MaskSummary], given: Classes) -> Encoding:
    """Masks whose colours classes.json names; or masks of indices, or of 0 and 255, for which it names colours."""
    number, palette, table = len(given.names), [rgb(code) for code in given.codes], table_of(given)
    fits = [seen for seen in usable if seen.values is not None and all(code in table for code in colours(seen))]
    flat = [seen for seen in usable if seen.kind != "colour" and seen.values is not None]
    in_colours = any(seen.kind == "colour" for seen in fits) or 2 * len(flat) < len(usable)
    if in_colours or len(fits) == len(usable):
        return told_apart(Encoding(given.names, palette, table, by_colour=True), usable)
    if given.ignored is None and is_binary(flat, number):
        return binary(flat, given)
    if set(values_of(flat)) <= {*range(number), IGNORE_INDEX}:
        note = "the masks hold indices; the colours of classes.json are only shown."
        indices = {**{i: i for i in range(number)}, IGNORE_INDEX: IGNORE_INDEX}
        return told_apart(Encoding(given.names, palette, indices, note=note), usable)
    return Encoding(given.names, palette, table, by_colour=True)


def table_of(given: Classes) -> dict[int, int]:
    """From the values or colours of classes.json to indices."""
    if len(given.names) < 2:
        raise UserError(f"classes.json names {given.names[0]} alone: name what is around it, too (background, say).")
    table = {code: label for label, code in enumerate(given.codes)}
    return table if given.ignored is None else {**table, given.ignored: IGNORE_INDEX}


def told_apart(encoding: Encoding, usable: Sequence[MaskSummary]) -> Encoding:
    """The same encoding. Raises UserError where all that the masks hold is named, but is less than two classes."""
    codes = sorted(set().union(*{tuple(encoding.codes(seen)) for seen in usable}))
    labels = {encoding.table.get(code, UNKNOWN) for code in codes}
    if any(seen.values is None for seen in usable) or UNKNOWN in labels or len(labels - {IGNORE_INDEX}) > 1:
        return encoding  # what is not named is said of each file
    read = [encoding.classes[label] if label != IGNORE_INDEX else "ignored" for label in sorted(labels)]
    raise UserError(
        f"All {len(usable)} masks together hold {shown(codes, colour=encoding.by_colour)} alone, which classes.json "
        f"makes {' and '.join(read)}: there is nothing to tell apart. Correct classes.json, or the masks."
    )


def colours(seen: MaskSummary) -> list[int]:
    """A mask's values as colours."""
    values = list(seen.values or {})
    if seen.palette is not None:
        return seen.palette
    return values if seen.kind == "colour" else [value * GRAY for value in values]


def shown_palette(flat: Sequence[MaskSummary], number: int) -> list[tuple[int, int, int]]:
    """The colours that palette files give their indices, where they tell all classes apart; else some of our own."""
    found: dict[int, int] = {}
    for seen in flat:
        found |= dict(zip(seen.values or {}, seen.palette or [], strict=False))
    own = [found.get(label) for label in range(number)]
    return [rgb(code) for code in own if code is not None] if len({*own} - {None}) == number else colours_for(number)
