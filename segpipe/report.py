"""``python -m segpipe.report FOLDER``: which differences between a folder's runs are real, on one page."""

import argparse
from pathlib import Path

from segpipe.analysis.collect import collect
from segpipe.analysis.effects import analyse
from segpipe.analysis.page import content, render
from segpipe.analysis.standings import standings
from segpipe.explain import friendly
from segpipe.runs import shown
from segpipe.storage import write_text


def report(folder: Path, *, out: Path | None = None, reference: str | None = None, resamples: int = 10_000) -> Path:
    """Write ``report.html`` into ``out``, or into the folder itself."""
    collection = collect(folder)
    analysis = analyse(collection, reference=reference, resamples=resamples)
    found = standings(collection, analysis)
    page = content(collection, analysis, found)
    out = out or folder
    write_text(out / "report.html", render(page))
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m segpipe.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="a sweep's folder, outputs/sweeps/NAME, or any with runs in it")
    parser.add_argument("--out", type=Path, help="where to write (default: into the folder)")
    parser.add_argument("--reference", help="the network that single ones are compared with (default: best on validation)")
    parser.add_argument("--resamples", type=int, default=10_000)
    given = parser.parse_args()
    with friendly():
        out = report(given.folder, out=given.out, reference=given.reference, resamples=given.resamples)
    print(f"{shown(out / 'report.html')}")


if __name__ == "__main__":
    main()
