"""Convert stored masks to class indices. All masks together determine which value or colour is which class.

255 means ignored. If the masks contain only 0 and 255, 255 means foreground. This is decided for the data set, not for
each file, and printed (``note``).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segpipe.data.dataset import IGNORE_INDEX, Mask
from segpipe.data.folder.classes import IGNORED, Classes, colours_for, numbers, rgb, shown
from segpipe.data.folder.survey import GRAY, DecodedMask, MaskSource, MaskSummary, look
from segpipe.errors import UserError, nearest

UNKNOWN = 254  # during conversion: a value without a class
MANY = 8  # values without a class in a mask; more indicate lossy compression
MOST_FOUND = 64  # maximal number of classes without a list of names
MOST_UNNAMED = 30  # with more classes without names, the values may be numbers of objects
FEW_OBJECTS = 4  # with fewer objects in every mask, the values are taken for classes
NAMES = ["background", "foreground"]


@dataclass(frozen=True)
class Encoding:
    """The meaning of stored values. table: from values (or 0xRRGGBB if ``by_colour``) to class indices, 255: ignored.

    note: an assumption about the masks, to be printed.
    """

    classes: list[str]
    palette: list[tuple[int, int, int]]
    table: dict[int, int]
    by_colour: bool = False
    note: str = ""

    def translate(self, stored: DecodedMask, path: Path | MaskSource) -> Mask:
        """Return class indices (H, W). Raises UserError for values without a class."""
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
            raise UserError(self.wrong(look(path), path) or f"{path}: the file changed while it was read. Start again.")
        return mask

    def wrong(self, seen: MaskSummary, path: Path | MaskSource) -> str | None:
        """Return the error message for a mask, from its summary; None if the mask is valid."""
        if seen.error:
            return seen.error
        if seen.values is None:
            return f"{path}: more than a thousand colours, so it is not a mask{advice(many=True)}"
        if seen.kind == "colour" and not self.by_colour:
            return f"{path}: a mask in colours, but other masks contain values. Save it in the format of the others."
        unknown = sorted(code for code in self.codes(seen) if code not in self.table)
        if not unknown:
            return None
        allowed = shown([code for code, label in self.table.items() if label != IGNORE_INDEX], colour=self.by_colour)
        return (
            f"{path}: {shown(unknown, colour=self.by_colour)} in a mask of {len(self.classes)} classes "
            f"({allowed}){advice(many=len(unknown) > MANY)}"
        )

    def codes(self, seen: MaskSummary) -> list[int]:
        """Return the values of a mask as keys of the table."""
        return colours(seen) if self.by_colour else list(seen.values or {})


def advice(*, many: bool) -> str:
    """Return advice for values without a class."""
    if many:
        return (
            ". It may hold numbers of objects, have been a JPEG, or have been resized with interpolation: create it "
            "again, as a PNG of class indices."
        )
    return (
        '. Correct the mask, or name the class in data.dataset.classes or classes.json ("ignored", if it means not '
        "labelled)."
    )


def no_colours(looks: Sequence[MaskSummary]) -> str:
    """Return advice for masks in colours if no colours are named."""
    codes = sorted({code for seen in looks for code in colours(seen)})
    if len(codes) > MOST_FOUND or any(seen.values is None for seen in looks):
        return f", with {len(codes)} colours or more{advice(many=True)}"
    table = {f"class{index}": rgb(code) for index, code in enumerate(codes)}
    return (
        f". Write in classes.json, beside the folder of masks, which colour is which class, with your own names: "
        f"{json.dumps(table)}"
    )


def decide(looks: Sequence[MaskSummary], paths: Sequence[Path | MaskSource], given: Classes | None) -> Encoding:
    """Determine the meaning of the masks' values. Raises UserError if it is ambiguous or the masks are invalid."""
    usable = [seen for seen in looks if not seen.error]
    if not usable:
        raise UserError(looks[0].error if looks else "There are no masks.")
    if given is not None and given.colours and 2 * sum(seen.kind == "colour" for seen in usable) > len(usable):
        given = given._replace(by="colour", codes=given.colours, colours=None, ignored=None)
    if given is not None and given.by == "colour":
        return by_colours(usable, given)
    coloured = [path for path, seen in zip(paths, looks, strict=True) if seen.kind == "colour"]
    if 2 * len(coloured) > len(usable):
        raise UserError(
            f"{coloured[0]}: a mask in colours, as {len(coloured)} of {len(usable)} masks"
            f"{', but classes.json has values' if given and given.by == 'value' else ''}{no_colours(usable)}"
        )
    flat = [seen for seen in usable if seen.kind != "colour" and seen.values is not None]
    if given is not None and given.by == "value":
        return by_values(flat, given)
    if is_binary(flat, len(given.names) if given else None):
        return binary(flat, given)
    return indexed(flat, paths, looks, given)


def values_of(looks: Sequence[MaskSummary]) -> list[int]:
    """Return all values that occur in the masks, sorted."""
    return sorted(set().union(*{tuple(seen.values or ()) for seen in looks}))


def is_binary(flat: Sequence[MaskSummary], number: int | None) -> bool:
    """Return whether 255 is the foreground: more masks contain only 0 and 255 than other values.

    Raises UserError if some masks use 1 and others 255 for the foreground.
    """
    masks = Counter(tuple(seen.values or ()) for seen in flat)
    two = sum(number for values, number in masks.items() if {255} <= {*values} <= {0, 255})
    one = sum(number for values, number in masks.items() if {1} <= {*values} <= {0, 1})
    other = sum(number for values, number in masks.items() if not {*values} <= {0, 255})
    if not two or (number or 2) > 2:
        return False
    if one and one == other:
        raise UserError(
            f"{two} masks contain 0 and 255, {one} contain 0 and 1: is 255 foreground or ignored? Save all masks in "
            f'one way, or write it in classes.json: {{"background": 0, "foreground": 1}} ignores 255.'
        )
    return two > other


def binary(flat: Sequence[MaskSummary], given: Classes | None) -> Encoding:
    """Return the encoding of masks of 0 and 255. 0 is the first class, or that with 0 or black in classes.json."""
    names = given.names if given else NAMES
    names = names if len(names) == 2 else [NAMES[0], names[0]]
    if len(values := values_of(flat)) == 1:
        raise UserError(f"Every pixel of all {len(flat)} masks is {values[0]}: at least two classes are needed.")
    zero = int(given is not None and given.codes[1:] == [0])
    read = f"0 is read as {names[zero]}, 255 as {names[1 - zero]}"
    note = f"the masks contain 0 and 255: {read} (otherwise 255 means ignored)."
    palette = [rgb(code) for code in given.codes] if given and given.by == "colour" else colours_for(2)
    return Encoding(names, palette, {0: zero, 255: 1 - zero}, note=note)


def indexed(
    flat: Sequence[MaskSummary],
    paths: Sequence[Path | MaskSource],
    looks: Sequence[MaskSummary],
    given: Classes | None,
) -> Encoding:
    """Return the encoding of masks of class indices, with 255 for ignored."""
    values = values_of(flat)
    labels = [value for value in values if value != IGNORE_INDEX]
    if given is not None:
        names = given.names if len(given.names) > 1 else [NAMES[0], *given.names]
        note = f"0 is read as {names[0]}, 1 as {names[1]}." if len(given.names) == 1 else ""
    elif len(labels) > MOST_FOUND:
        most = max(flat, key=lambda seen: len(seen.values or {}))
        raise UserError(
            f"{paths[looks.index(most)]}: {len(most.values or {})} different values "
            f"({numbers(sorted(most.values or {}))}), {len(labels)} in all masks{advice(many=True)}"
        )
    elif (reason := objects(flat, labels)) is not None:
        raise UserError(reason)
    elif labels != list(range(len(labels))):
        table = {f"class{value}": value for value in labels}
        raise UserError(
            f"The masks contain {shown(labels)}, but there are no names for these. Name them in classes.json beside "
            f"the folder of masks: {json.dumps(table)}"
        )
    else:
        names = NAMES if len(labels) == 2 else [f"class{label}" for label in labels]
        note = f"classes found in the masks: {', '.join(names)}. To name them: data.dataset.classes=[NAME,NAME,...]"
        if len(labels) > 2:
            unlabelled = json.dumps({"ignored": 0} | dict(zip(names[1:], labels[1:], strict=True)))
            note += f". 0 is read as {names[0]}; if it means not labelled, write in classes.json: {unlabelled}"
    if len(labels) < 2:
        raise UserError(
            f"All {len(flat)} masks together contain only {', '.join(map(str, values))}"
            f"{' (255 is read as ignored)' if IGNORE_INDEX in values else ''}: at least two classes are needed."
        )
    named = given.colours if given is not None and len(given.names) == len(names) else None
    palette = [rgb(c) for c in named] if named else shown_palette(flat, len(names))
    return Encoding(names, palette, {**{i: i for i in range(len(names))}, IGNORE_INDEX: IGNORE_INDEX}, note=note)


def objects(flat: Sequence[MaskSummary], labels: Sequence[int]) -> str | None:
    """Return the error message if the values seem to be numbers of objects: 1 to n in each mask, n by the image."""
    numbered = [sorted({*(seen.values or {})} - {0, IGNORE_INDEX}) for seen in flat]
    counts = [len(values) for values in numbered if values == list(range(1, len(values) + 1))]
    many = len(counts) >= 0.9 * len(flat) and len({*counts} - {0}) >= 3 and max(counts) >= FEW_OBJECTS
    if not many and len(labels) <= MOST_UNNAMED:
        return None
    how = f"most masks hold the values 1 to n, with n up to {max(counts)}" if many else f"they are {len(labels)}"
    return (
        f"The values of the masks may be numbers of objects, not classes: {how}. If they are, save masks of 0 and 255, "
        f"or of class indices. If they are classes, name them: data.dataset.classes=[NAME,NAME,...]"
    )


def by_values(flat: Sequence[MaskSummary], given: Classes) -> Encoding:
    """Return the encoding of masks whose values classes.json names; 255 is ignored unless it is named.

    If classes.json names 0 and 1, and all masks contain only 0 and 255, 255 means 1.
    """
    if sorted(given.codes) == [0, 1] and given.ignored is None and set(values_of(flat)) <= {0, 255}:
        return binary(flat, given)
    palette = [rgb(c) for c in given.colours] if given.colours else shown_palette(flat, len(given.names))
    return told_apart(Encoding(given.names, palette, {IGNORE_INDEX: IGNORE_INDEX, **table_of(given)}), flat)


def by_colours(usable: Sequence[MaskSummary], given: Classes) -> Encoding:
    """Return the encoding if classes.json names colours; the masks contain these colours, or indices, or 0 and 255."""
    number, palette, table = len(given.names), [rgb(code) for code in given.codes], table_of(given)
    fits = [seen for seen in usable if seen.values is not None and all(code in table for code in colours(seen))]
    flat = [seen for seen in usable if seen.kind != "colour" and seen.values is not None]
    in_colours = any(seen.kind == "colour" for seen in fits) or 2 * len(flat) < len(usable)
    if in_colours or len(fits) == len(usable):
        return told_apart(Encoding(given.names, palette, table, by_colour=True), usable)
    if given.ignored is None and is_binary(flat, number):
        return binary(flat, given)
    if set(values_of(flat)) <= {*range(number), IGNORE_INDEX}:
        note = "the masks contain indices; the colours of classes.json are used for display only."
        indices = {**{i: i for i in range(number)}, IGNORE_INDEX: IGNORE_INDEX}
        return told_apart(Encoding(given.names, palette, indices, note=note), usable)
    return Encoding(given.names, palette, table, by_colour=True)


def table_of(given: Classes) -> dict[int, int]:
    """Return the class index of each value or colour in classes.json. Raises UserError for a single class."""
    if len(given.names) < 2:
        raise UserError(f"classes.json names only {given.names[0]}: name the other pixels too, for example background.")
    table = {code: label for label, code in enumerate(given.codes)}
    return table if given.ignored is None else {**table, given.ignored: IGNORE_INDEX}


def by_names(names: list[str], looks: Sequence[MaskSummary], given: Classes | None) -> Encoding:
    """Return the encoding of masks whose values are the indices of known names, of annotations for example.

    The background is left out if no pixel has it. Raises UserError for fewer than two classes.
    """
    usable = [seen for seen in looks if not seen.error]
    if not usable:
        raise UserError(looks[0].error if looks else "There are no masks.")
    present = set(values_of(usable))
    kept = [code for code, name in enumerate(names) if code in present or (given and name in given.names)]
    if len(kept) < 2:
        only = names[kept[0]] if kept else IGNORED
        raise UserError(f"All {len(usable)} masks contain only {only}: at least two classes are needed.")
    palette = colours_for(len(names))
    if given is not None and (codes := given.codes if given.by == "colour" else given.colours):
        known = dict(zip(given.names, codes, strict=True))
        palette = [rgb(known[name]) if name in known else palette[code] for code, name in enumerate(names)]
    table = {code: index for index, code in enumerate(kept)} | {IGNORE_INDEX: IGNORE_INDEX}
    empty = [name for code, name in enumerate(names) if code not in kept]
    without = f" (without pixels, and so left out: {numbers(empty)})" if empty else ""
    note = f"classes: {', '.join(names[code] for code in kept)}{without}."
    return Encoding([names[code] for code in kept], [palette[code] for code in kept], table, note=note)


def merged(encoding: Encoding, merge: Mapping[str, str]) -> Encoding:
    """Return an encoding of other classes: each name that ``merge`` has is replaced.

    Classes of the same new name are one class; ``ignored`` leaves a class out of loss and scores; ``*`` stands for all
    other names. Raises UserError for a name that is no class, and if fewer than two classes are left.
    """
    if not merge:
        return encoding
    classes = encoding.classes
    if wrong := [name for name in merge if name not in classes and name != "*"]:
        raise UserError(
            f"data.dataset.merge={{{wrong[0]}: {merge[wrong[0]]}}}: there is no class {wrong[0]}; the classes are "
            f"{', '.join(classes)}.{nearest(wrong[0], classes)}"
        )
    new = [merge.get(name, merge.get("*", name)) for name in classes]
    names = list(dict.fromkeys(name for name in new if name != IGNORED))
    if len(names) < 2:
        raise UserError(
            f"data.dataset.merge leaves {names[0] if names else 'no class'} of {', '.join(classes)}: at least two "
            f"classes are needed."
        )
    colour_of: dict[str, tuple[int, int, int]] = {}
    for name, colour in zip(new, encoding.palette, strict=True):
        colour_of.setdefault(name, colour)
    index_of = [names.index(name) if name != IGNORED else IGNORE_INDEX for name in new]
    table = {code: IGNORE_INDEX if label == IGNORE_INDEX else index_of[label] for code, label in encoding.table.items()}
    changed = ", ".join(f"{name} is {other}" for name, other in zip(classes, new, strict=True) if name != other)
    note = f"{encoding.note} " if encoding.note else ""
    return replace(
        encoding,
        classes=names,
        palette=[colour_of[name] for name in names],
        table=table,
        note=f"{note}Classes by merge: {', '.join(names)} ({changed or 'nothing changed'}).",
    )


def told_apart(encoding: Encoding, usable: Sequence[MaskSummary]) -> Encoding:
    """Return the encoding. Raises UserError if all values of the masks are named, but are fewer than two classes."""
    codes = sorted(set().union(*{tuple(encoding.codes(seen)) for seen in usable}))
    labels = {encoding.table.get(code, UNKNOWN) for code in codes}
    if any(seen.values is None for seen in usable) or UNKNOWN in labels or len(labels - {IGNORE_INDEX}) > 1:
        return encoding  # ``wrong`` reports unnamed values for each file
    read = [encoding.classes[label] if label != IGNORE_INDEX else "ignored" for label in sorted(labels)]
    raise UserError(
        f"All {len(usable)} masks together contain only {shown(codes, colour=encoding.by_colour)}; in classes.json "
        f"this is {' and '.join(read)}: at least two classes are needed. Correct classes.json, or the masks."
    )


def colours(seen: MaskSummary) -> list[int]:
    """Return the values of a mask as colours 0xRRGGBB."""
    values = list(seen.values or {})
    if seen.palette is not None:
        return seen.palette
    return values if seen.kind == "colour" else [value * GRAY for value in values]


def shown_palette(flat: Sequence[MaskSummary], number: int) -> list[tuple[int, int, int]]:
    """Return the palette of the mask files if it has a different colour for each class, else default colours."""
    colour_by_value: dict[int, int] = {}
    for seen in flat:
        colour_by_value |= dict(zip(seen.values or {}, seen.palette or [], strict=False))
    chosen = [colour_by_value.get(label) for label in range(number)]
    return (
        [rgb(code) for code in chosen if code is not None] if len({*chosen} - {None}) == number else colours_for(number)
    )
