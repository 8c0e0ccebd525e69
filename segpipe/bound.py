"""``python -m segpipe.bound data=camvid data.root=...``: the scores of a perfect coarse map after fixed upsampling.

The scores are a reference for upsampling operators, not a limit: a learned decoder, or one with skips, can do better.
"""

from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segpipe.analysis import oracle
from segpipe.analysis.oracle import RESAMPLERS
from segpipe.config import build
from segpipe.config.messages import user_errors
from segpipe.config.overrides import composed
from segpipe.config.schema import check
from segpipe.data.dataset import Split
from segpipe.errors import UserError
from segpipe.runs.run import PYTHON, display_path, quote_template, shell_line
from segpipe.runs.storage import check_can_write, write_json
from segpipe.runs.summary import format_score
from segpipe.terminal import Parser


def bound(cfg: DictConfig, split: Split) -> dict[str, Any]:
    """Return the content of the JSON file: the data set, and the scores (0 to 1) by stride and resampling method."""
    dataset = build.dataset(cfg, split)
    header = {"data": cfg.data.name, "split": split, "fingerprint": dataset.fingerprint(), "images": len(dataset)}
    return header | {"strides": oracle.bound(dataset, split)}


def table(content: dict[str, Any]) -> Table:
    """Return a table of the mIoU (0 to 1) by stride and resampling method. content: of the JSON file."""
    title = f"{content['data']} {content['split']}, {content['images']} images: mIoU of a perfect map after upsampling"
    table = Table(title=escape(title), title_justify="left")
    for heading in ("stride", *RESAMPLERS):
        table.add_column(heading, justify="right")
    for stride, resamplers in content["strides"].items():
        table.add_row(stride, *[format_score(resamplers[resampler]["miou"]) for resampler in RESAMPLERS])
    return table


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m segpipe.bound", description=__doc__)
    parser.add_argument("overrides", nargs="*", type=quote_template, help="as for train: data=camvid data.root=...")
    parser.add_argument("--split", choices=get_args(Split), default="test")
    parser.add_argument("--out", type=Path, help="the file to write (default: outputs/bounds/DATA-SPLIT.json)")
    given = parser.parse_args()
    with user_errors():
        cfg = composed(given.overrides)
        check(cfg)
        out = given.out or Path("outputs") / "bounds" / f"{cfg.data.name}-{given.split}.json"
        if out.is_dir():
            raise UserError(f"--out {out}: this is a folder. Give the name of a file.")
        check_can_write(out.parent, f"--out {out}")
        content = bound(cfg, given.split)
        write_json(out, content)
    Console(highlight=False, soft_wrap=True).print(table(content))
    print("These scores are a reference, not a limit: a learned decoder, or one with skips, can do better.")
    print(f"Written to {display_path(out)}, with scores at boundaries. Next:")
    print(f"  {PYTHON} -m segpipe.train {shell_line(given.overrides)}".rstrip())


if __name__ == "__main__":
    main()
