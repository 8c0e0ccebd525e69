"""segpipe: does the way a segmentation network climbs back to full resolution matter?"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segpipe.engine.predictor import Predictor


def load(run: str | Path, *, device: str | None = None) -> "Predictor":
    """A finished run as a function: ``segpipe.load(run)(picture)`` is the picture's mask.

    run: a run's folder. device: as torch names it; a GPU where there is one by default.
    Raises ``segpipe.errors.UserError`` where the folder is no run, or has no checkpoint.
    """
    from segpipe.engine.predictor import Predictor  # torch takes seconds to import

    return Predictor(run, device=device)
