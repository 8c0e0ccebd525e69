"""``python -m segpipe.report FOLDER``: one page on which differences between a folder's runs are significant."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from segpipe.analysis import spreadsheets
from segpipe.analysis.bounds import bound_of
from segpipe.analysis.collect import collect
from segpipe.analysis.factors import FACTORS, Factor
from segpipe.analysis.network_results import network_results
from segpipe.analysis.page import boundaries
from segpipe.analysis.page.content import content, render
from segpipe.analysis.page.markdown import markdown
from segpipe.analysis.scores import MIOU, ReportScore
from segpipe.analysis.statistics.effects import analyse
from segpipe.analysis.verdict import Paragraph
from segpipe.config.choices import files
from segpipe.config.messages import user_errors
from segpipe.config.schema import locate
from segpipe.errors import UserError
from segpipe.runs.archive import shown_path
from segpipe.runs.run import display_path
from segpipe.runs.storage import write_text

RESAMPLES = 10_000


def report(
    folder: Path,
    *,
    out: Path | None = None,
    reference: str | None = None,
    bound: Path | None = None,
    resamples: int = RESAMPLES,
    as_markdown: bool = False,
    factors: Sequence[Factor] = FACTORS,
    score: ReportScore = MIOU,
) -> list[Paragraph]:
    """Write ``report.html``, ``results.csv`` and ``comparisons.csv`` to ``out``, or to the folder of the runs.

    reference: the network that single networks are compared with; None compares each with the best of the others.
    bound: a file of ``segpipe.bound``; None searches for one. resamples: of the test images, at least 100. as_markdown:
    also write ``report.md``. factors: the factors in which the cells differ; the first one gives the lines of the plots
    and the rows of the tables. score: the score that is compared. Returns the verdict.
    Raises UserError where the folder has no finished run, where ``out`` is a file, or for too few resamples.
    """
    if resamples < 100:
        raise UserError(
            f"--resamples {resamples}: at least 100 are needed to estimate a variance; {RESAMPLES} are usual."
        )
    out = out or default_out(folder)
    if out.is_file():
        raise UserError(f"--out {out}: this is a file. Give a folder; it is created if it does not exist.")
    collection = collect(folder, factors=factors, score=score)
    analysis = analyse(collection, reference=reference, resamples=resamples)
    results = network_results(collection, analysis)
    bound_scores = bound_of(collection, bound)
    exploratory = boundaries.exploratory(collection, resamples=resamples)
    command = ["python", "-m", "segpipe.report", display_path(shown_path(folder))]
    command += ["--out", display_path(out)] if out != default_out(folder) else []
    command += ["--reference", reference] if reference else []
    command += ["--bound", display_path(bound_scores.path)] if bound_scores else []
    command += ["--resamples", str(resamples)] if resamples != RESAMPLES else []
    page = content(
        collection,
        analysis,
        results,
        exploratory=exploratory,
        bound=bound_scores,
        command=command,
        classes=offered_classes(),
    )
    html = render(page)
    spreadsheets.write(out / "results.csv", list(spreadsheets.result_rows(collection)))
    spreadsheets.write(out / "comparisons.csv", list(spreadsheets.comparison_rows(analysis, exploratory)))
    if as_markdown:
        write_text(out / "report.md", markdown(page))
    write_text(out / "report.html", html)
    return page.verdict


def default_out(folder: Path) -> Path:
    """Return the folder to write to: that of the runs; for an archive, a folder beside it."""
    return folder if folder.is_dir() else shown_path(folder).with_name(f"{shown_path(folder).name}-report")


def offered_classes() -> dict[str, type]:
    """Return the operators, fusions and refinements that ``conf/`` names, by import path, if they can be imported.

    The report reads their attributes. Classes that only a run names are not imported, because the folder of runs may
    come from another person.
    """
    refinements = [node.model.get("refine", {}) for node in files("model").values()]
    classes: dict[str, type] = {}
    for node in (*files("decoder").values(), *files("fusion").values(), *refinements):
        if path := node.get("_target_"):
            with suppress(UserError):
                classes[path] = locate(path)
    return classes


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m segpipe.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of a sweep, its archive, or any folder of runs")
    parser.add_argument("--out", type=Path, help="the folder to write to (default: the folder of the runs)")
    parser.add_argument(
        "--reference", help="the network to compare single networks with (default: the best of the others)"
    )
    parser.add_argument("--format", choices=("html", "md"), default="html", help="md: also write report.md")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="number of resamples of the test images")
    parser.add_argument(
        "--bound", type=Path, help="a file of segpipe.bound (default: one in outputs/bounds for the same test images)"
    )
    given = parser.parse_args()
    as_markdown = given.format == "md"
    with user_errors():
        verdict = report(
            given.folder,
            out=given.out,
            reference=given.reference,
            bound=given.bound,
            resamples=given.resamples,
            as_markdown=as_markdown,
        )
    for paragraph in verdict:
        for finding in paragraph.findings:
            if finding.headline:
                print(f"{finding.topic}: {finding.headline}" + (f" ({paragraph.title})" if paragraph.title else ""))
    out = given.out or default_out(given.folder)
    written = ["report.html", *(["report.md"] if as_markdown else []), "results.csv", "comparisons.csv"]
    print(f"Written: {', '.join(display_path(out / name) for name in written)}")


if __name__ == "__main__":
    main()
