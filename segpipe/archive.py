"""``python -m segpipe.archive SWEEP``: one file with all that a report reads of a sweep."""

from pathlib import Path

from segpipe.config.messages import user_errors
from segpipe.errors import UserError
from segpipe.runs import archive
from segpipe.runs.run import PYTHON, display_path, typed_path
from segpipe.runs.storage import check_can_write
from segpipe.terminal import Parser


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m segpipe.archive", description=__doc__)
    parser.add_argument("sweep", type=Path, help="the folder of a sweep, outputs/sweeps/NAME, or any folder of runs")
    parser.add_argument("--out", type=Path, help="the file to write (default: SWEEP.zip)")
    parser.add_argument("--no-examples", action="store_true", help="leave the example images out")
    given = parser.parse_args()
    with user_errors():
        folder = given.sweep
        out = given.out or folder.resolve().with_name(folder.resolve().name + archive.SUFFIX)
        if out.is_dir():
            raise UserError(f"--out {out}: this is a folder. Give the name of a file, for example {out / 'sweep.zip'}.")
        check_can_write(out.parent, f"--out {out}")
        runs = archive.write(folder, out, examples=not given.no_examples)
        size = out.stat().st_size
    print(f"Written: {display_path(out)}: {runs} run{'s' if runs > 1 else ''}, {size / 1e6:.1f} MB")
    print(f"Report: {PYTHON} -m segpipe.report {typed_path(out)}")


if __name__ == "__main__":
    main()
