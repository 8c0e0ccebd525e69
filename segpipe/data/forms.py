"""The form of a data set's images: found from the headers of its files, checked against what the user says."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from segpipe.data.bands import MOST_BANDS
from segpipe.data.dataset import Axes, ImageForm
from segpipe.data.stored import depth_group
from segpipe.errors import UserError


@dataclass(frozen=True)
class ImageSummary:
    """A summary of an image file. orientation: EXIF's, 1 to 8; 1: upright. error: why it is rejected, or None.

    bands, depth, pages, shape: see ``Header``. beside: see ``files.alpha_of``. rgb: three bands are colours.
    size: height and width in pixels, upright.
    """

    orientation: int = 1
    error: str | None = None
    bands: int = 3
    depth: str = "uint8"
    pages: int = 1
    shape: tuple[int, ...] = ()
    beside: str = ""
    rgb: bool = True
    size: tuple[int, int] = (0, 0)


class Forms(NamedTuple):
    """The form of most images, or None if they are 8-bit gray or RGB; the problem of each other file; and notes."""

    form: ImageForm | None
    problems: dict[Path, str]
    notes: list[str]


def find_form(images: Mapping[Path, ImageSummary], *, channels: int | None, pages: bool, axes: Axes | None) -> Forms:
    """Return the form of a data set's images. channels: that the user gives. pages, axes: see ``ImageForm``."""
    if channels is not None and not 1 <= channels <= MOST_BANDS:
        raise UserError(f"data.channels={channels}: allowed is a number from 1 to {MOST_BANDS}, or null.")
    problems: dict[Path, str] = {}
    kinds: dict[Path, ImageForm | None] = {}  # None: 8-bit gray or RGB
    for path, seen in images.items():
        if seen.error:
            continue
        bands = bands_of(seen, channels, pages=pages, axes=axes)
        if isinstance(bands, int) and bands > MOST_BANDS:
            bands = f"an image of {bands} bands; allowed are {MOST_BANDS}. Choose some of them, and save those."
        if isinstance(bands, str):
            problems[path] = f"{path}: {bands}"
            continue
        depth = depth_group(seen.depth)
        plain = depth == "uint8" and channels in (None, 3) and (bands == 1 or (bands == 3 and seen.rgb))
        kinds[path] = None if plain else ImageForm(bands, depth)
    if not kinds:
        return Forms(None, problems, [])
    fitting = Counter(kind for kind in kinds.values() if kind is None or channels in (None, kind.channels))
    if not fitting:
        found = ", ".join(f"{number} of {described(kind)}" for kind, number in Counter(kinds.values()).most_common(3))
        first = next(iter(kinds))
        text = f"{first}: data.channels={channels} is given, but the images are: {found}. Give another data.channels."
        return Forms(None, problems | {first: text}, [])
    most = min(fitting, key=lambda kind: (-fitting[kind], str(kind)))
    for path, kind in kinds.items():
        if kind != most:
            given = f"data.channels={channels} is given, and " if channels is not None else ""
            problems[path] = (
                f"{path}: an image of {described(kind)}, but {given}{fitting[most]} of {len(kinds)} images have "
                f"{described(most)}. All images need the same bands and depth: convert or remove it, or set "
                f"data.channels."
            )
    if most is None:
        return Forms(None, problems, [])
    form = most._replace(pages=pages and any(seen.pages > 1 for seen in images.values()), axes=axes)
    return Forms(form, problems, notes_of(images, form))


def bands_of(seen: ImageSummary, channels: int | None, *, pages: bool, axes: Axes | None) -> int | str:
    """Return the number of bands of an image as it will be read, or why it is rejected."""
    if seen.pages > 1:
        if not pages:
            return (
                f"a TIFF of {seen.pages} pages; only the first would be read. Save each page as a file of its own, "
                f"with a mask of its own; or, if the pages of each file are the bands of one image, set "
                f"data.dataset.pages=bands."
            )
        return seen.pages
    if len(seen.shape) == 3:
        bands = seen.bands if axes is None else seen.shape[2 if axes == "HWC" else 0]
        return bands or (
            f"an array of the shape {list(seen.shape)}, in which the axis of the bands is not clear. Set "
            f"data.dataset.axes=HWC if it is the last, or CHW if it is the first."
        )
    if not seen.beside or channels == seen.bands:
        return seen.bands
    if seen.beside == "opaque":
        return seen.bands - 1
    return (
        f"the image has a band beside its colours (transparency, or infrared) that is not 255 everywhere. If it is "
        f"data, set data.channels={seen.bands} to train on it; else save the images without it: three bands (or one)."
    )


def size_of(seen: ImageSummary, axes: Axes | None) -> tuple[int, int]:
    """Return the height and width of an image as it will be read, in pixels."""
    if len(seen.shape) != 3 or axes is None:
        return seen.size
    return (seen.shape[0], seen.shape[1]) if axes == "HWC" else (seen.shape[1], seen.shape[2])


def form_in(seen: ImageSummary, *, pages: bool, axes: Axes | None) -> ImageForm | str:
    """Return the form of one file of an image whose bands are in several files, or why it is rejected."""
    bands = bands_of(seen, None if seen.beside == "opaque" else seen.bands, pages=pages, axes=axes)
    return bands if isinstance(bands, str) else ImageForm(bands, depth_group(seen.depth), seen.pages > 1, axes)


def joined(parts: Mapping[Path, ImageSummary], *, pages: bool, axes: Axes | None) -> ImageSummary:
    """Return the summary of an image whose bands are in several files, one after the other; of one file, its own."""
    first, *others = parts
    whole = parts[first]
    if not others or any(part.error for part in parts.values()):
        return next((part for part in parts.values() if part.error), whole)
    forms = {path: form_in(part, pages=pages, axes=axes) for path, part in parts.items()}
    sizes = {path: size_of(part, axes) for path, part in parts.items()}
    for path, form in forms.items():
        if isinstance(form, str):
            return replace(whole, error=f"{path}: {form}")
        if sizes[path] != sizes[first]:
            height, width = sizes[path]
            return replace(
                whole,
                error=f"{path}: {height} x {width} pixels, but {first} has {sizes[first][0]} x {sizes[first][1]}. Give "
                f"all channels of an image one size.",
            )
    known = [form for form in forms.values() if isinstance(form, ImageForm)]
    depths = {form.depth for form in known}
    return replace(
        whole,
        bands=sum(form.channels for form in known),
        depth=depths.pop() if len(depths) == 1 else "float32",
        pages=1,
        rgb=False,
        beside="",
        shape=(),
        size=sizes[first],
    )


def described(kind: ImageForm | None) -> str:
    """Return a form as text."""
    return "8-bit gray or RGB" if kind is None else str(kind)


def notes_of(images: Mapping[Path, ImageSummary], form: ImageForm) -> list[str]:
    """Return what is assumed about the files, to be printed."""
    notes = []
    if form.pages:
        notes.append(f"the {form.channels} pages of each TIFF are read as bands (data.dataset.pages=bands).")
    shapes = [seen.shape for seen in images.values() if len(seen.shape) == 3]
    if shapes and form.axes is None:
        first = shapes[0][0] == form.channels and shapes[0][2] != form.channels
        notes.append(
            f"the {'first' if first else 'last'} axis of the .npy files is read as bands; if it is not, set "
            f"data.dataset.axes={'HWC' if first else 'CHW'}."
        )
    return notes
