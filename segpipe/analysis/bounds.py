"""The scores of a perfect map after fixed upsampling, read from the files of ``segpipe.bound``."""

from pathlib import Path
from typing import NamedTuple

from segpipe.analysis.collection import Collection
from segpipe.errors import UserError
from segpipe.runs.storage import read_json

FOLDER = Path("outputs") / "bounds"  # default folder of segpipe.bound


class Bound(NamedTuple):
    """The content of a bound file.

    path: the file. scores: the report's score (0 to 1) of a perfect map, by resampling method and stride.
    """

    path: Path
    scores: dict[str, dict[int, float]]


def bound_of(collection: Collection, file: Path | None) -> Bound | None:
    """Return the bound in the given file, or in the first file of FOLDER for the same test images; None without one.

    given: a file of ``segpipe.bound``; None searches in FOLDER.
    Raises UserError if the given file has no scores, or scores of other images.
    """
    fingerprints = collection.runs[0].run.record.get("data_fingerprint")
    fingerprint = fingerprints.get("test") if isinstance(fingerprints, dict) else None
    for path in [file] if file else sorted(FOLDER.glob("*.json")):
        content = read_json(path)
        scores = scores_by_resampler(content, collection.score.key)
        if scores and fingerprint is not None and content.get("fingerprint") == fingerprint:
            return Bound(path, scores)
        if file:
            problem = (
                "computed for other test images than those of the runs"
                if scores
                else "no such file, or no scores in it"
            )
            raise UserError(
                f"--bound {file}: {problem}. Give a file that python -m segpipe.bound wrote for the same data."
            )
    return None


def scores_by_resampler(content: dict[str, object], key: str) -> dict[str, dict[int, float]]:
    """Return one score (0 to 1) by resampling method and stride; empty if the content has no such score."""
    by_resampler: dict[str, dict[int, float]] = {}
    strides = content.get("strides")
    try:
        for stride, resamplers in strides.items() if isinstance(strides, dict) else []:
            for resampler, scores in resamplers.items():
                by_resampler.setdefault(str(resampler), {})[int(stride)] = float(scores[key])
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return by_resampler
