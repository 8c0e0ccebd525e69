"""``python -m segpipe.report FOLDER``: one page on which differences between a folder's runs are significant."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segpipe.analysis import spreadsheets
from segpipe.analysis.bounds import bound_of
from segpipe.analysis.collect import collect
from segpipe.analysis.factors import Factor
from segpipe.analysis.network_results import network_results
from segpipe.analysis.page import boundaries
from segpipe.analysis.page.content import Content, content, render
from segpipe.analysis.page.latex import latex
from segpipe.analysis.page.markdown import markdown
from segpipe.analysis.page.side_by_side import Sweep, side_by_side
from segpipe.analysis.roles import Roles
from segpipe.analysis.scores import MIOU, ReportScore, find_score
from segpipe.analysis.statistics.effects import analyse
from segpipe.analysis.verdict import Paragraph
from segpipe.config.choices import files
from segpipe.config.messages import user_errors
from segpipe.config.schema import locate
from segpipe.errors import UserError
from segpipe.runs.archive import shown_path
from segpipe.runs.run import display_path
from segpipe.runs.storage import check_can_write, write_text
from segpipe.terminal import Parser

RESAMPLES = 10_000


@dataclass(frozen=True)
class Options:
    """What is compared, and how it is shown.

    reference: the network that single networks are compared with; None compares each with the best of the others.
    bound: a file of ``segpipe.bound``; None searches for one. resamples: of the test images, at least 100.
    as_markdown, as_latex: also write ``report.md`` and ``report.tex``. factors: the factors in which the cells differ,
    instead of those that are found; the first one gives the lines of the plots and the rows of the tables. roles: which
    factors are drawn, averaged over, or form groups. tuned: keys whose level was chosen for each cell. score: the score
    that is compared.
    """

    reference: str | None = None
    bound: Path | None = None
    resamples: int = RESAMPLES
    as_markdown: bool = False
    as_latex: bool = False
    factors: Sequence[Factor] | None = None
    roles: Roles | None = None
    tuned: Sequence[str] = ()
    score: ReportScore = MIOU

    @property
    def words(self) -> list[str]:
        """The options that choose what is compared, as words of the command line."""
        roles = self.roles or Roles()
        words = ["--score", self.score.key] if self.score.key != MIOU.key else []
        words += ["--factors", ",".join(roles.drawn)] if roles.drawn is not None else []
        words += [word for key in roles.averaged for word in ("--average", key)]
        words += [word for key in self.tuned for word in ("--tuned", key)]
        return words + (["--reference", self.reference] if self.reference else [])

    def check(self, out: Path) -> None:
        """Raise UserError for too few resamples, and where the folder to write to is a file."""
        if self.resamples < 100:
            raise UserError(
                f"--resamples {self.resamples}: at least 100 are needed to estimate a variance; {RESAMPLES} are usual."
            )
        check_can_write(out, f"--out {out}")


def report(folder: Path, *, out: Path | None = None, **options: Any) -> list[Paragraph]:
    """Write ``report.html``, ``results.csv`` and ``comparisons.csv`` to ``out``, or to the folder of the runs.

    options: see ``Options``. Returns the verdict.
    Raises UserError where the folder has no finished run, where ``out`` is a file, for a key in which the cells do not
    differ, or for too few resamples.
    """
    out, given = out or default_out(folder), Options(**options)
    given.check(out)
    sweep = read_sweep(folder, out, given)
    write_page(out, sweep.page, given, results=result_rows([sweep]), comparisons=comparison_rows([sweep]))
    return sweep.page.verdict


def compare(folders: Sequence[Path], *, out: Path, **options: Any) -> list[Paragraph]:
    """Write the files of ``report`` for several sweeps, side by side, to ``out``. Returns the verdict.

    options: see ``Options``. The CSV files have a first column with the folder.
    Raises UserError as ``report``, and for a folder that is given twice.
    """
    given = Options(**options)
    given.check(out)
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("A folder is given twice. Give two different sweeps.")
    sweeps = [read_sweep(folder, out, given) for folder in folders]
    command = ["python", "-m", "segpipe.report", *map(display_path, folders), "--out", display_path(out), *given.words]
    page = side_by_side(sweeps, command)
    write_page(out, page, given, results=result_rows(sweeps), comparisons=comparison_rows(sweeps))
    return page.verdict


def write_page(
    out: Path,
    page: Content,
    options: Options,
    *,
    results: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
) -> None:
    """Write the page in each format, and the CSV files."""
    html = render(page)
    spreadsheets.write(out / "results.csv", [dict(row) for row in results])
    spreadsheets.write(out / "comparisons.csv", [dict(row) for row in comparisons])
    if options.as_markdown:
        write_text(out / "report.md", markdown(page))
    if options.as_latex:
        write_text(out / "report.tex", latex(page))
    write_text(out / "report.html", html)


def result_rows(sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Return the rows of results.csv; of several sweeps, with their names."""
    return [
        ({"sweep": sweep.name} if len(sweeps) > 1 else {}) | row
        for sweep in sweeps
        for row in spreadsheets.result_rows(sweep.collection)
    ]


def comparison_rows(sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Return the rows of comparisons.csv; of several sweeps, with their names."""
    return [
        ({"sweep": sweep.name} if len(sweeps) > 1 else {}) | row
        for sweep in sweeps
        for row in spreadsheets.comparison_rows(sweep.analysis, sweep.exploratory)
    ]


def read_sweep(folder: Path, out: Path, options: Options) -> Sweep:
    """Return the runs of a folder, their comparisons, and the page."""
    collection = collect(folder, factors=options.factors, roles=options.roles, tuned=options.tuned, score=options.score)
    analysis = analyse(collection, reference=options.reference, resamples=options.resamples)
    results = network_results(collection, analysis)
    bound_scores = bound_of(collection, options.bound)
    exploratory = boundaries.exploratory(collection, resamples=options.resamples)
    command = ["python", "-m", "segpipe.report", display_path(shown_path(folder))]
    command += ["--out", display_path(out)] if out != default_out(folder) else []
    command += options.words
    command += ["--bound", display_path(bound_scores.path)] if bound_scores else []
    command += ["--resamples", str(options.resamples)] if options.resamples != RESAMPLES else []
    page = content(
        collection,
        analysis,
        results,
        exploratory=exploratory,
        bound=bound_scores,
        command=command,
        classes=offered_classes(),
        out=out,
    )
    return Sweep(collection, analysis, results, exploratory, page)


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


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python -m segpipe.report", description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="+",
        help="the folder of a sweep, its archive, or any folder of runs; two sweeps are shown side by side",
    )
    parser.add_argument(
        "--out", type=Path, help="the folder to write to (default: that of the runs; of two sweeps, the working folder)"
    )
    parser.add_argument("--score", default=MIOU.key, help="the score to compare: miou (default), dice, boundary_f, ...")
    parser.add_argument(
        "--factors", metavar="A,B,C", help="up to three factors to draw and to order (default: the largest effects)"
    )
    parser.add_argument(
        "--average", metavar="KEY", action="append", default=[], help="a factor to average over; can be repeated"
    )
    parser.add_argument(
        "--tuned",
        metavar="KEY",
        action="append",
        default=[],
        help="a nuisance factor: each cell is judged at the level that validation chose on other seeds",
    )
    parser.add_argument(
        "--reference", help="the network to compare single networks with (default: the best of the others)"
    )
    parser.add_argument(
        "--format",
        choices=("html", "md", "latex"),
        default="html",
        help="md, latex: also write report.md, or report.tex with the tables",
    )
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="number of resamples of the test images")
    parser.add_argument(
        "--bound", type=Path, help="a file of segpipe.bound (default: one in outputs/bounds for the same test images)"
    )
    return parser.parse_args()


def main() -> None:
    """The command line."""
    given = arguments()
    with user_errors():
        drawn = None if given.factors is None else [key.strip() for key in given.factors.split(",") if key.strip()]
        options: dict[str, Any] = {
            "reference": given.reference,
            "bound": given.bound,
            "resamples": given.resamples,
            "as_markdown": given.format == "md",
            "as_latex": given.format == "latex",
            "roles": Roles(drawn, given.average),
            "tuned": given.tuned,
            "score": find_score(given.score),
        }
        if len(given.folder) > 1:
            out = given.out or Path()
            verdict = compare(given.folder, out=out, **options)
        else:
            out = given.out or default_out(given.folder[0])
            verdict = report(given.folder[0], out=given.out, **options)
    for paragraph in verdict:
        for finding in paragraph.findings:
            if finding.headline:
                print(f"{finding.topic}: {finding.headline}" + (f" ({paragraph.title})" if paragraph.title else ""))
    names = ["report.html", *{"md": ["report.md"], "latex": ["report.tex"]}.get(given.format, [])]
    names += ["results.csv", "comparisons.csv"]
    print(f"Written: {', '.join(display_path(out / name) for name in names)}")


if __name__ == "__main__":
    main()
