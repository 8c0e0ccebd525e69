"""``python -m segpipe.evaluate RUN --data data=camvid data.root=...``: test a finished run again, on any data set."""

from pathlib import Path
from typing import get_args

from rich.console import Console

from segpipe.config.messages import user_errors
from segpipe.data.dataset import Split
from segpipe.engine.evaluation import evaluate
from segpipe.engine.skip_ablation import SkipChange
from segpipe.errors import printable
from segpipe.runs.run import quote_template
from segpipe.runs.summary import format_score, score_table
from segpipe.terminal import Parser


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m segpipe.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run, or a shared file (.zip, .safetensors)")
    parser.add_argument(
        "--data",
        nargs="+",
        type=quote_template,
        default=[],
        metavar="OVERRIDE",
        help="as for train: data=camvid data.root=...",
    )
    parser.add_argument("--split", choices=get_args(Split), default="test")
    parser.add_argument("--out", type=Path, help="the folder to write to (default: evaluations in the run's folder)")
    parser.add_device()
    parser.add_argument(
        "--skips", choices=get_args(SkipChange), help="replace all skips: by zeros, or by those of another image"
    )
    parser.add_trust()
    given = parser.parse_args()
    with user_errors():
        result = evaluate(
            given.run,
            overrides=given.data,
            split=given.split,
            out=given.out,
            device=given.device,
            trust=given.trust,
            skips=given.skips,
        )
    console = Console(highlight=False, soft_wrap=True)
    title = f"{given.split}, skips: {given.skips}" if given.skips else given.split
    console.print(score_table(result, title=title))
    console.print(
        f"{title} mIoU {format_score(result['miou'])}. Written to {printable(result['folder'])}/", markup=False
    )


if __name__ == "__main__":
    main()
