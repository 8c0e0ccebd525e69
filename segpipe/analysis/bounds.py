"""What fixed upsampling of a perfect map scores on the same test pictures, as ``segpipe.bound`` wrote it."""

from pathlib import Path
from typing import NamedTuple

from segpipe.analysis.collect import Collection
from segpipe.errors import UserError
from segpipe.runs.storage import read_json

FOLDER = Path("outputs") / "bounds"  # where segpipe.bound writes


class Bound(NamedTuple):
    """scores: the report's score of a perfect map, by the way up and the stride."""

    path: Path
    scores: dict[str, dict[int, float]]


def bound_of(collection: Collection, given: Path | None) -> Bound | None:
    """From the file given, or from one of FOLDER that is of the same test pictures; None where there is none.

    Raises UserError where the file given is none, or is of other pictures.
    """
    tested = collection.runs[0].run.record.get("data_fingerprint")
    fingerprint = tested.get("test") if isinstance(tested, dict) else None
    for path in [given] if given else sorted(FOLDER.glob("*.json")):
        content = read_json(path)
        found = by_way(content, collection.score.key)
        if found and fingerprint is not None and content.get("fingerprint") == fingerprint:
            return Bound(path, found)
        if given:
            what = (
                "computed for other test images than those of the runs" if found else "no such file, or no scores in it"
            )
            raise UserError(
                f"--bound {given}: {what}. Give a file that python -m segpipe.bound wrote for the same data."
            )
    return None


def by_way(content: dict[str, object], key: str) -> dict[str, dict[int, float]]:
    """A score by way and stride; nothing where the file is damaged, or another's, or has no such score."""
    found: dict[str, dict[int, float]] = {}
    strides = content.get("strides")
    try:
        for stride, ways in strides.items() if isinstance(strides, dict) else []:
            for way, scores in ways.items():
                found.setdefault(str(way), {})[int(stride)] = float(scores[key])
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return found
