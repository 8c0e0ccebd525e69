"""Masks that are made when they are read: from drawn regions, from a file for each class, from numbers of objects."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Mask
from segpipe.data.files import check_pixels, most_bytes, reading
from segpipe.data.folder.classes import IGNORED, MOST_CLASSES, numbers
from segpipe.data.folder.drawing import MOST_COVER, MOST_DRAWN, Region
from segpipe.data.folder.survey import DecodedMask, MaskSource, decode, stamp
from segpipe.data.masks import has_wide_numbers, mask_header, read_mask_values
from segpipe.errors import UserError
from segpipe.runs.storage import open_regular

BACKGROUND = "background"  # the class of pixels without a label
UNDRAWN = 254  # while drawing: a pixel without a label
Instances = Literal["foreground", "thousands"]


@dataclass(frozen=True, eq=False)
class NamedSource(MaskSource):
    """A mask whose classes are known by name. codes: the value of each name in the decoded mask."""

    path: Path
    codes: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    @property
    @abstractmethod
    def names(self) -> set[str]:
        """Return the names of its classes."""

    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Return the height and width of the mask in pixels."""

    @abstractmethod
    def layers(self) -> Iterator["Layer"]:
        """Yield the labels from the lowest to the highest; one is in memory at a time."""

    def decode(self) -> DecodedMask:
        """Return the mask of codes. Where labels overlap, the last one counts."""
        mask: Mask = np.full(self.shape(), UNDRAWN, np.uint8)
        overlap = 0
        for name, top, left, inside in self.layers():
            part = mask[top : top + inside.shape[0], left : left + inside.shape[1]]
            overlap += int((inside & (part != UNDRAWN) & (part != self.codes[name])).sum())
            part[inside] = self.codes[name]
        mask[mask == UNDRAWN] = self.codes[BACKGROUND]
        return DecodedMask("gray", mask, None, type(self).__name__, overlap=overlap)

    def codes_mark(self) -> str:
        """Return a digest of the codes."""
        return hashlib.blake2b(repr(sorted(self.codes.items())).encode(), digest_size=6).hexdigest()


class Layer(NamedTuple):
    """The pixels of a label: boolean (h, w), with its upper left pixel at row ``top`` and column ``left``."""

    name: str
    top: int
    left: int
    inside: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Drawing(NamedSource):
    """Regions of an annotation file. item: the image in it, for messages. size: height and width of the image."""

    item: str
    size: tuple[int, int]
    regions: Sequence[tuple[str, Region]]

    @property
    def names(self) -> set[str]:
        """See NamedSource."""
        return {name for name, _ in self.regions}

    def shape(self) -> tuple[int, int]:
        """See NamedSource."""
        check_pixels(*self.size, str(self))
        return self.size

    def layers(self) -> Iterator[Layer]:
        """See NamedSource."""
        pixels = 0
        for name, region in self.regions:
            try:
                patch = region.patch(*self.size)
            except ValueError as error:
                raise UserError(f"{self}: {name}: {error}. Correct the file.") from error
            pixels += patch.inside.size
            if pixels > min(MOST_COVER * self.size[0] * self.size[1], MOST_DRAWN):
                raise UserError(
                    f"{self}: its regions cover the image more than {MOST_COVER} times, or have more than "
                    f"{MOST_DRAWN:,} pixels together. Correct the file."
                )
            yield Layer(name, *patch)

    def stamp(self) -> str:
        """See MaskSource."""
        return f"{self.item} {stamp(self.path)} {self.codes_mark()}"

    def __str__(self) -> str:
        """Return the file and the image in it."""
        return f"{self.path} ({self.item})"


@dataclass(frozen=True, eq=False)
class ClassFiles(NamedSource):
    """A file for each class, whose pixels are 0 outside and any other value inside."""

    files: Sequence[tuple[str, Path]]

    @property
    def names(self) -> set[str]:
        """See NamedSource."""
        return {name for name, _ in self.files}

    def shape(self) -> tuple[int, int]:
        """See NamedSource."""
        with reading(self.path), open_regular(self.path, limit=most_bytes()) as file:
            return mask_header(file, self.path).upright_size

    def layers(self) -> Iterator[Layer]:
        """See NamedSource. The order is that of the codes."""
        shape = self.shape()
        for name, path in sorted(self.files, key=lambda file: self.codes[file[0]]):
            values = decode(path).values
            present = np.unique(values)
            if len(present[present != 0]) > 1:
                raise UserError(
                    f"{path}: {len(present)} different values ({numbers(present.tolist())}), but a mask of one class "
                    f"({name}) holds 0 and one other value. Save it so, as PNG."
                )
            if values.shape != shape:
                raise UserError(f"{path}: another size than {self.path}. Give the masks of one image one size.")
            yield Layer(name, 0, 0, values != 0)

    def stamp(self) -> str:
        """See MaskSource."""
        files = " ".join(f"{name} {path} {stamp(path)}" for name, path in self.files)
        return f"{files} {self.codes_mark()}"


@dataclass(frozen=True, eq=False)
class InstanceFile(MaskSource):
    """A mask of numbers of objects, of up to 32 bits, or of a colour for each object.

    how: ``foreground``: 0 is background, and any other number an object of the one class. ``thousands``: the number of
    an object is its class times 1000 plus its own number, as in Cityscapes; below 1000 it is the class.
    """

    path: Path
    how: Instances

    def decode(self) -> DecodedMask:
        """Return the mask of classes."""
        values = read_numbers(self.path)
        if self.how == "foreground":
            return DecodedMask("gray", (values != 0).astype(np.uint8), None, "instances")
        classes = np.where(values >= 1000, values // 1000, values)
        if classes.max(initial=0) > 255:
            raise UserError(f"{self.path}: the class {classes.max()} in a mask of instances; allowed are 0 to 255.")
        return DecodedMask("gray", classes.astype(np.uint8), None, "instances")

    def stamp(self) -> str:
        """See MaskSource."""
        return f"{self.how} {stamp(self.path)}"


def read_numbers(path: Path) -> NDArray[np.int64]:
    """Return the values of a mask (H, W): of a gray image of up to 32 bits, or as ``survey.decode`` has them."""
    with reading(path), open_regular(path, limit=most_bytes()) as file:
        header = mask_header(file, path)
    return read_mask_values(path) if has_wide_numbers(header) else decode(path).values.astype(np.int64)


def with_codes(
    sources: Sequence[NamedSource], given: Sequence[str] | None, order: Sequence[str] = ()
) -> tuple[dict[NamedSource, NamedSource], list[str]]:
    """Return masks that agree on the value of each class, and the classes in the order of the values.

    given: the names that the user gave, in this order. order: that of the annotation file, otherwise; the other names
    are sorted. The background comes first, if it has no place. Raises UserError for a name that is not given, and for
    too many.
    """
    used = set().union(*(source.names for source in sources)) - {IGNORED}
    names = list(given) if given is not None else [*(name for name in order if name in used), *sorted(used - {*order})]
    background = next((name for name in names if name.lower() == BACKGROUND), None)
    names = [BACKGROUND, *names] if background is None else names
    if missing := sorted(used - set(names)):
        source = next(source for source in sources if missing[0] in source.names)
        raise UserError(
            f"{source}: the class {missing[0]} is not among the given classes ({numbers(names)}). Give all "
            f"{len(used)}: {numbers(sorted(used))}. data.dataset.merge={{{missing[0]}: ignored}} then leaves one out."
        )
    if len(names) >= MOST_CLASSES:
        raise UserError(f"The labels have {len(names)} classes ({numbers(names)}); allowed are {MOST_CLASSES - 1}.")
    codes = {name: code for code, name in enumerate(names)} | {IGNORED: 255}
    codes.setdefault(BACKGROUND, codes[background or BACKGROUND])
    return {source: replace(source, codes=codes) for source in sources}, names
