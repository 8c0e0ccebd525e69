"""``python -m segpipe.archive SWEEP``: one file with all that a report reads of a sweep; ``--share RUN``: one of a run.

``--share RUN`` writes one run for other people: weights, configuration, scores, and a model card, without what belongs
to this machine. ``--restore FILE.zip FOLDER`` makes the folder of a run of it.
"""

from pathlib import Path

from segpipe.config.messages import user_errors
from segpipe.errors import UserError, printable
from segpipe.runs import archive
from segpipe.runs.run import PYTHON, display_path, typed_path
from segpipe.runs.storage import check_can_write
from segpipe.terminal import Parser


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m segpipe.archive", description=__doc__)
    parser.add_argument(
        "sweep", type=Path, nargs="?", help="the folder of a sweep, outputs/sweeps/NAME, or any folder of runs"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--share", type=Path, metavar="RUN", help="write one finished run for other people")
    which.add_argument(
        "--restore", type=Path, nargs=2, metavar=("FILE", "FOLDER"), help="write the folder of a shared run"
    )
    parser.add_argument("--out", type=Path, help="the file to write (default: SWEEP.zip, RUN.zip)")
    parser.add_argument("--no-examples", action="store_true", help="leave the example images out (of a sweep)")
    parser.add_argument("--licence", help="of the shared model, for its model card: CC-BY-4.0, or a sentence")
    parser.add_trust()
    given = parser.parse_args()
    if (given.sweep is None) == (given.share is None and given.restore is None):
        parser.error("give one of: SWEEP, --share RUN, --restore FILE FOLDER")
    with user_errors():
        if given.restore:
            restore(*given.restore)
        elif given.share:
            share(given.share, out=given.out, licence=given.licence, trust=given.trust)
        else:
            write(given.sweep, out=given.out, examples=not given.no_examples)


def write(folder: Path, *, out: Path | None, examples: bool) -> None:
    """Write the archive of a sweep."""
    out = file_name(folder, out)
    runs = archive.write(folder, out, examples=examples)
    size = out.stat().st_size
    print(f"Written: {display_path(out)}: {runs} run{'s' if runs > 1 else ''}, {size / 1e6:.1f} MB")
    print(f"Report: {PYTHON} -m segpipe.report {typed_path(out)}")


def share(run: Path, *, out: Path | None, licence: str | None, trust: list[str]) -> None:
    """Write the archive of one run."""
    from segpipe.engine import shared  # imported here: importing torch takes seconds
    from segpipe.engine.predictor import Predictor

    out = file_name(run, out)
    if out.suffix.lower() != archive.SUFFIX:
        raise UserError(f"--out {out}: the name of a shared run has to end with {archive.SUFFIX}, by which it is read.")
    predictor = Predictor(run, device="cpu", trust=trust)
    if predictor.run.unfinished:
        print(predictor.run.unfinished)
    names = shared.share(predictor, out, licence=licence)
    print(printable(f"Written: {display_path(out)}: {', '.join(names)}; {out.stat().st_size / 1e6:.1f} MB"))
    print(f"Read the model card in it ({shared.CARD}), and fill in what only you know: intended use, data, licence.")
    print(f"Use: {PYTHON} -m segpipe.predict {typed_path(out)} IMAGES --out masks")


def restore(file: Path, folder: Path) -> None:
    """Write the folder of a shared run."""
    from segpipe.engine import shared

    shared.restore(file, folder)
    print(f"Written: {display_path(folder)}")
    print(f"Use: {PYTHON} -m segpipe.predict {typed_path(folder)} IMAGES --out masks")


def file_name(folder: Path, out: Path | None) -> Path:
    """Return the file to write: ``out``, or FOLDER.zip. Raises UserError for a folder."""
    out = out or folder.resolve().with_name(folder.resolve().name.removesuffix(archive.SUFFIX) + archive.SUFFIX)
    if out.is_dir():
        raise UserError(f"--out {out}: this is a folder. Give the name of a file, for example {out / 'sweep.zip'}.")
    if out.resolve() == folder.resolve():
        raise UserError(f"--out {out}: this is the file that is read. Give another name.")
    check_can_write(out.parent, f"--out {out}")
    return out


if __name__ == "__main__":
    main()
