"""The bands of images that are not 8-bit RGB: their range, measured once on the training split, and their scaling."""

import hashlib
import math
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray
from rich.progress import track

from segpipe.data import cache
from segpipe.data.dataset import Axes, Image, ImageForm, Sample, SegmentationDataset
from segpipe.errors import UserError

FORMAT = 2  # of the cache: raise it if the measurement changes
MOST_BANDS = 512  # of an image
LOWEST, HIGHEST = 0.001, 0.999  # quantiles that become 0 and 255
SAMPLED = 2**23  # numbers of all images together that are looked at
FEWEST = 16  # pixels of an image that are looked at, however many images there are
NO_DATA = 1e30  # numbers of this size and above mean no data
PLACEHOLDERS = (-32768.0, -9999.0, -999.0, -99999.0)  # numbers that often mean no data
SMALLEST_STD = 0.01  # of values 0 to 1: a constant band is not divided by 0
SHOWN = 8  # bands in a message


@dataclass(frozen=True)
class Bands:
    """The bands of a run's images, measured on its training split.

    channels: the number of bands, C. The tuples have a number for each band.
    low, high: the range of each band in the unit of the files, without the lowest and highest 0.1 % of the values.
    mean, std: of each band after ``scale``, divided by 255.
    form: how the files are stored.
    missing: share of the values that are no data, 0 to 1.
    """

    channels: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    form: ImageForm
    missing: float = 0.0

    def scale(self, image: Image) -> NDArray[np.float32]:
        """Return an image (H, W, C) as float32: each band's range becomes 0 to 255, numbers beyond it are clipped.

        Numbers that are not finite, and those without data, become 0. Raises UserError for another number of bands.
        """
        if image.ndim != 3 or image.shape[2] != self.channels:
            raise UserError(
                f"The image has the shape {image.shape}; this network needs (height, width, {self.channels})."
            )
        low, high = (np.asarray(values, np.float64) for values in (self.low, self.high))
        scaled = image.astype(np.float32)
        if image.dtype.kind == "f" and not (usable := np.abs(scaled) < NO_DATA).all():
            scaled = np.where(usable, scaled, low.astype(np.float32))
        scaled -= low.astype(np.float32)
        scaled *= (255 / (high - low)).astype(np.float32)
        return np.clip(scaled, 0, 255, out=scaled)

    def record(self) -> dict[str, Any]:
        """Return the entry ``bands`` of ``run.json``."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()} | {
            "form": self.form._asdict()
        }

    @classmethod
    def from_record(cls, record: Any) -> "Bands":
        """Return the bands of a record, which may come from a stranger. Raises UserError if it is damaged."""
        try:
            read = pydantic.TypeAdapter(Record).validate_python(record)
        except pydantic.ValidationError as error:
            raise UserError(f"The entry bands of run.json is damaged ({error.errors()[0]['msg']}).") from error
        lists = (read.low, read.high, read.mean, read.std)
        numbers = [number for values in lists for number in values]
        if (
            any(len(values) != read.channels for values in lists)
            or not all(map(math.isfinite, numbers))
            or any(high <= low for low, high in zip(read.low, read.high, strict=True))
            or min(read.std) <= 0
            or read.form.channels != read.channels
        ):
            raise UserError("The entry bands of run.json is damaged: its numbers are not those of bands.")
        form = ImageForm(read.form.channels, read.form.depth, read.form.pages, read.form.axes)
        low, high, mean, std = (tuple(values) for values in lists)
        return cls(read.channels, low, high, mean, std, form, read.missing)

    def notes(self) -> list[str]:
        """Return what is measured and assumed, as sentences to be printed."""
        ranges = ", ".join(f"{low:g} to {high:g}" for low, high in zip(self.low, self.high, strict=True))
        if self.channels > SHOWN:
            shown = list(zip(self.low, self.high, strict=True))[:SHOWN]
            ranges = ", ".join(f"{low:g} to {high:g}" for low, high in shown) + f" and {self.channels - SHOWN} more"
        notes = [
            f"the images have {self.form}. Each band is scaled from its range in the training images, without the "
            f"lowest and highest 0.1 %: {ranges}. Prediction uses the same ranges."
        ]
        if self.missing:
            share = f"{self.missing:.2%}" if self.missing >= 1e-4 else "less than 0.01 %"
            notes.append(
                f"{share} of the numbers are no data (not finite, or GDAL's nodata); they become the lowest value."
            )
        for number, low in enumerate(self.low, start=1):
            if low in PLACEHOLDERS:
                notes.append(
                    f"band {number} has the value {low:g} in many pixels. If it means no data, say so in the files "
                    f"(gdal_edit.py -a_nodata {low:g} FILE), or save NaN; otherwise it spoils the band's range."
                )
                break
        return notes


class Form(pydantic.BaseModel):
    """An ``ImageForm`` in a record."""

    model_config = pydantic.ConfigDict(strict=True)
    channels: int = pydantic.Field(ge=1, le=MOST_BANDS)
    depth: str = pydantic.Field(pattern=r"^(u?int(8|16|32|64)|float32)$")
    pages: bool = False
    axes: Axes | None = None


class Record(pydantic.BaseModel):
    """``Bands`` in a record."""

    model_config = pydantic.ConfigDict(strict=True)
    channels: int = pydantic.Field(ge=1, le=MOST_BANDS)
    low: list[float]
    high: list[float]
    mean: list[float]
    std: list[float]
    form: Form
    missing: float = pydantic.Field(default=0.0, ge=0, le=1)


def cached_bands(dataset: SegmentationDataset) -> Bands | None:
    """Return the bands of a training split; None if its images are 8-bit RGB. They come from the cache if it has them.

    The key contains the data set's fingerprint: changed data are measured again.
    """
    if dataset.form is None:
        return None
    key = f"{dataset.fingerprint()} {len(dataset)} {tuple(dataset.form)}"
    name = f"bands-{FORMAT}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    with suppress(UserError):
        return Bands.from_record(cache.read(name))
    bands = measure(dataset, dataset.form)
    cache.write(name, bands.record())
    return bands


def measure(dataset: SegmentationDataset, form: ImageForm) -> Bands:
    """Measure the bands on a data set, one image after the other: pixels at equal distances in each, up to SAMPLED."""
    each = max(FEWEST, SAMPLED // (form.channels * max(len(dataset), 1)))
    hidden, parts = not sys.stdout.isatty(), []
    for index in track(range(len(dataset)), f"Measuring {len(dataset)} images", transient=True, disable=hidden):
        image = dataset.read(index).image
        step = max(1, -(-image.shape[0] * image.shape[1] // each))
        while step > 1 and math.gcd(step, image.shape[1]) > 1:  # else all pixels would lie in a few columns
            step += 1
        parts.append(image.reshape(-1, form.channels)[::step].astype(np.float32))
    pixels = np.concatenate(parts)
    usable = np.abs(pixels) < NO_DATA
    ranges = [range_of(pixels[usable[:, band], band]) for band in range(form.channels)]
    low, high = ([rounded(values[side]) for values in ranges] for side in (0, 1))
    bands = Bands(form.channels, tuple(low), tuple(high), (), (), form, rounded(1 - usable.mean(dtype=np.float64)))
    shares, moments = bands.scale(pixels[None])[0] / 255, []
    for band in range(form.channels):
        values = shares[usable[:, band], band].astype(np.float64)
        moments.append((values.mean(), max(values.std(), SMALLEST_STD)) if len(values) else (0.0, 1.0))
    mean, std = ([rounded(values[side]) for values in moments] for side in (0, 1))
    return Bands(form.channels, bands.low, bands.high, tuple(mean), tuple(std), form, bands.missing)


def range_of(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the quantiles LOWEST and HIGHEST of a band; its smallest and largest number where these are equal."""
    if not len(values):
        return 0.0, 1.0
    low, high = (float(value) for value in np.quantile(values.astype(np.float64), [LOWEST, HIGHEST]))
    if rounded(high) <= rounded(low):  # a few bright spots on an empty image
        low, high = float(values.min()), float(values.max())
    if rounded(high) <= rounded(low):
        high = low + max(1.0, abs(low) * 1e-4)
    return low, high


def rounded(value: float) -> float:
    """Return a number with six digits, which are the same on every machine."""
    return float(f"{value:.6g}")


class Scaled(SegmentationDataset):
    """A data set whose images are scaled by ``Bands.scale``: (H, W, C), float32, 0 to 255.

    bands: of the run; None: images are 8-bit RGB. Raises UserError if the images have another form.
    """

    def __init__(self, whole: SegmentationDataset, bands: Bands) -> None:
        self.whole, self.bands = whole, bands
        self.classes, self.palette, self.form = whole.classes, whole.palette, whole.form
        self.names, self.groups = whole.names, whole.groups
        self.notes, self.problems = whole.notes, whole.problems

    def read(self, index: int) -> Sample:
        """See SegmentationDataset."""
        image, mask = self.whole.read(index)
        return Sample(self.bands.scale(image), mask)

    def read_window(self, index: int, rows: slice, columns: slice) -> Sample:
        """See SegmentationDataset."""
        image, mask = self.whole.read_window(index, rows, columns)
        return Sample(self.bands.scale(image), mask)

    def size(self, index: int) -> tuple[int, int]:
        """See SegmentationDataset."""
        return self.whole.size(index)

    def fingerprint(self) -> str:
        """Return the fingerprint of the data set, which determines the bands too."""
        return self.whole.fingerprint()

    def class_pixels(self) -> NDArray[np.int64] | None:
        """See SegmentationDataset."""
        return self.whole.class_pixels()

    def image_files(self) -> list[Path]:
        """See SegmentationDataset."""
        return self.whole.image_files()


def scaled(dataset: SegmentationDataset, bands: Bands | None) -> SegmentationDataset:
    """Return a data set as a network of these bands needs it. Raises UserError if its images have another form."""
    needed = None if bands is None else bands.form
    given = dataset.form
    if (needed and needed[:2]) != (given and given[:2]):
        raise UserError(
            f"The images have {given or '3 bands of uint8 (RGB)'}, but the network was trained on "
            f"{needed or '3 bands of uint8 (RGB)'}. Give images of this form, or train on those that you have."
        )
    return dataset if bands is None else Scaled(dataset, bands)


def visible(image: Image) -> NDArray[np.uint8]:
    """Return an image, values 0 to 255, as RGB (H, W, 3) of uint8: its first three bands, or the first one as gray."""
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return image
    shown = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    return np.ascontiguousarray(np.clip(np.nan_to_num(shown), 0, 255).round().astype(np.uint8))


def pixel_bytes(dataset: SegmentationDataset) -> int:
    """Return the memory of a pixel of an image that is scaled, and of its mask, in bytes."""
    return 4 if dataset.form is None else 4 * dataset.form.channels + 1
