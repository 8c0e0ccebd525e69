"""``python -m segpipe.export RUN --format onnx``: a finished run as one file, for other programs and people."""

from pathlib import Path
from typing import get_args

from segpipe.config.messages import user_errors
from segpipe.engine.export import Format, Input, export, size_text
from segpipe.errors import printable
from segpipe.runs.run import PYTHON, display_path, typed_path
from segpipe.terminal import Parser


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m segpipe.export", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run, or the file of python -m segpipe.archive --share")
    parser.add_argument("--format", choices=get_args(Format), required=True, dest="form", help="of the file")
    parser.add_argument("--out", type=Path, help="the file to write (default: NAME.onnx, .pt2 or .safetensors here)")
    parser.add_argument(
        "--input", choices=get_args(Input), dest="given", help="type of the image tensor (default: uint8 for RGB)"
    )
    parser.add_trust()
    given = parser.parse_args()
    with user_errors():
        out, parity = export(given.run, form=given.form, out=given.out, given=given.given, trust=given.trust)
        print(printable(f"Parity: {parity}"))
        print(f"Written: {display_path(out)}: {size_text(out)}")
        trust = " --trust torch" if given.form == "torch_export" else ""
        print(f"Use: {PYTHON} -m segpipe.predict {typed_path(out)} IMAGES --out masks{trust}")


if __name__ == "__main__":
    main()
