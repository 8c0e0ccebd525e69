"""Training of networks for semantic segmentation, and the measurement of how much their decoder matters.

What is exported here is public: ``load``, ``Predictor``, ``UserError`` and ``__version__``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segpipe.errors import UserError

if TYPE_CHECKING:
    from segpipe.engine.predictor import Predictor

    __version__: str

__all__ = ["Predictor", "UserError", "__version__", "load"]


def load(run: str | Path, *, device: str | None = None) -> "Predictor":
    """A finished run as a function: ``segpipe.load(run)(image)`` is the image's mask.

    run: a run's folder. device: as torch names it; a GPU where there is one by default.
    Raises ``segpipe.UserError`` where the folder is no run, or has no checkpoint.
    """
    from segpipe.engine.predictor import Predictor  # torch takes seconds to import

    return Predictor(run, device=device)


def installed_version() -> str:
    """The version of the installed distribution; ``0+unknown`` where the package is used without being installed."""
    from importlib import metadata

    try:
        return metadata.version("segpipe")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def __getattr__(name: str) -> Any:
    """What takes time to import is imported when it is asked for."""
    if name == "Predictor":
        from segpipe.engine.predictor import Predictor

        return Predictor
    if name == "__version__":
        return installed_version()
    raise AttributeError(f"module 'segpipe' has no attribute '{name}'")


def __dir__() -> list[str]:
    """What is exported, imported so far or not."""
    return sorted({*globals(), *__all__})
