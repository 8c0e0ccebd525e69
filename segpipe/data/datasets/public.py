"""Functions for public data sets: open them by torchvision's readers, or explain how to get them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from segpipe.data.dataset import Split
from segpipe.data.find import is_stray, require_listed
from segpipe.data.folder.layout import hash_fraction
from segpipe.errors import UserError

T = TypeVar("T")
BOM = "\ufeff"  # the byte order mark that some editors write at the start of a text file
HELD_OUT = 0.1  # share of the official training images that becomes val


def open_or_explain(make: Callable[[], T], *, title: str, root: str, hint: str) -> T:
    """Return the result of ``make``, a torchvision reader. Raises UserError if data are missing or unreadable."""
    try:
        return make()
    except RuntimeError as error:  # torchvision's message is advice for its own callers
        raise UserError(f"data.root={root}: {title} is missing or incomplete there. {hint}") from error
    except OSError as error:  # no network, no list of images
        reason = str(error).partition("\n")[0]
        raise UserError(f"data.root={root}: {title} cannot be read there ({reason}). {hint}") from error


def listed_files(images: list[str], masks: list[str]) -> list[tuple[Path, Path]]:
    """Return the images and masks that a list file names, without a byte order mark and blank lines of the list."""
    files = [
        (Path(image.replace(BOM, "")), Path(mask.replace(BOM, ""))) for image, mask in zip(images, masks, strict=True)
    ]
    return [(image, mask) for image, mask in files if not is_stray(image.name)]  # a blank line names the file .jpg


def require_files(paths: list[Path], *, title: str) -> list[Path]:
    """Return the same paths. Raises UserError if files are missing that the lists of the data set name."""
    return require_listed(paths, source=title, advice="Unpack or download the data set again.")


def split_names(names: list[str], split: Split) -> list[str]:
    """Return the official training names that belong to ``split``: HELD_OUT of them to val, others to train."""
    return [name for name in names if (hash_fraction(name) < HELD_OUT) == (split == "val")]
