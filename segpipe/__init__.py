"""Training of networks for semantic segmentation, and measurement of the effect of their decoder.

The names exported here are public: ``load``, ``Predictor``, ``UserError`` and ``__version__``.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 11):  # noqa: UP036  (a checkout can be used without an installation)
    _LINE = "segpipe needs Python 3.11 or newer. This is " + sys.version.split()[0] + ": " + sys.executable
    if sys.argv[:1] == ["-m"]:  # python -m segpipe.COMMAND
        sys.exit(_LINE)
    raise ImportError(_LINE)

from segpipe import terminal
from segpipe.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segpipe.engine.predictor import Predictor

    __version__: str

__all__ = ["Predictor", "UserError", "__version__", "load"]


if terminal.starts_command():
    terminal.begin_imports()  # the command ends them with ``user_errors``


def load(run: str | Path, *, device: str | None = None, trust: "Iterable[str]" = ()) -> "Predictor":
    """Load a finished run as a function: ``segpipe.load(run)(image)`` returns the image's mask, (H, W) of uint8.

    run: the folder of a run, a file of ``segpipe.export``, or one of ``segpipe.archive --share``. It may come from a
    stranger: only classes of segpipe are used. device: a device name of torch, such as ``cpu`` or ``cuda``; None takes
    a GPU if there is one (the CPU for a program of ``segpipe.export``). trust: packages with further classes that the
    run may use, such as ``["mypackage"]``; ``["torch"]`` for a program of torch.export.
    Returns a ``Predictor``. Its ``probabilities(image)`` are those of each class, (K, H, W).
    Raises ``segpipe.UserError`` where the folder is not a run, where a file is missing, damaged or needs ``trust``, and
    where the device is not available.
    """
    from segpipe.engine.predictor import Predictor  # imported here: importing torch takes seconds

    return Predictor(run, device=device, trust=trust)


def __getattr__(name: str) -> Any:
    """Import names that take time to import only when they are used."""
    if name == "Predictor":
        from segpipe.engine.predictor import Predictor

        return Predictor
    if name == "__version__":
        from segpipe.runs.environment import installed_version

        return installed_version()
    raise AttributeError(f"module 'segpipe' has no attribute '{name}'")


def __dir__() -> list[str]:
    """What is exported, imported so far or not."""
    return sorted({*globals(), *__all__})
