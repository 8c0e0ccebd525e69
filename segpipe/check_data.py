"""``python -m segpipe.check_data data=folder data.root=...``: find the problems of a data set before training."""

import sys
from typing import get_args

from omegaconf import DictConfig
from rich.console import Console

from segpipe.config import build
from segpipe.config.messages import user_errors
from segpipe.config.overrides import composed
from segpipe.config.schema import check
from segpipe.data.check import Report
from segpipe.data.dataset import Split
from segpipe.errors import UserError, one_line
from segpipe.runs.run import PYTHON, quote_template, shell_line
from segpipe.terminal import Parser

SHOWN = 20  # number of problems printed without --all


def check_data(cfg: DictConfig) -> Report:
    """Read all data once and collect all problems. The check does not stop at the first one."""
    report = Report()
    for split in get_args(Split):
        try:
            dataset = build.dataset(cfg, split)
        except UserError as error:
            report.problem(split, str(error))
            continue
        report.read(split, dataset)
    report.conclude()
    return report


def main() -> None:
    """The command line; exit status 1 if there is any problem."""
    parser = Parser(prog="python -m segpipe.check_data", description=__doc__)
    parser.add_argument("overrides", nargs="*", type=quote_template, help="as for train: data=folder data.root=...")
    parser.add_argument("--all", action="store_true", help=f"print all problems, not {SHOWN} of them")
    given = parser.parse_args()
    with user_errors():
        cfg = composed(given.overrides)
        check(cfg)
        report = check_data(cfg)
    if report.pixels:
        Console().print(report.table(f"data={cfg.data.name}: share of pixels"))
    for note in report.notes:
        print(one_line(f"Note: {note}"))
    problems = report.problems
    printed = problems if given.all else problems[:SHOWN]
    for problem in printed:
        print(one_line(f"- {problem}"))
    if len(problems) > len(printed):
        print(f"... and {len(problems) - len(printed)} more. Print all with --all.")
    if problems:
        print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found.")
    else:
        print(f"No problems found. Next:\n  {PYTHON} -m segpipe.train {shell_line(given.overrides)}")
    sys.exit(int(bool(problems)))


if __name__ == "__main__":
    main()
