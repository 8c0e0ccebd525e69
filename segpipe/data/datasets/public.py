"""What the readers of public data sets share: finding them by torchvision's readers, or saying how to get them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from segpipe.data.dataset import Split
from segpipe.data.folder.layout import hash_fraction
from segpipe.errors import UserError

T = TypeVar("T")
HELD_OUT = 0.1  # of the training pictures, where a data set's test split is not public


def open_or_explain(make: Callable[[], T], *, title: str, root: str, hint: str) -> T:
    """What torchvision's reader makes. Raises UserError where the data are not there, or cannot be downloaded."""
    try:
        return make()
    except RuntimeError as error:  # what torchvision says of this is advice for callers of its own
        raise UserError(f"data.root={root}: {title} is not there, or not whole. {hint}") from error
    except OSError as error:  # no network, no list of pictures
        reason = str(error).partition("\n")[0]
        raise UserError(f"data.root={root}: {title} cannot be read there ({reason}). {hint}") from error


def require_files(paths: list[Path], *, title: str) -> list[Path]:
    """The same paths. Raises UserError where files are missing that the data set's lists name."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]}: no such file, though {title} lists it ({len(missing)} of {len(paths)} are missing). "
            f"Unpack or download the data set again."
        )
    return paths


def split_names(names: list[str], split: Split) -> list[str]:
    """Of the names of an official training split those that are ``train``, or the HELD_OUT share that is ``val``."""
    return [name for name in names if (hash_fraction(name) < HELD_OUT) == (split == "val")]
