"""Standard output and errors of commands: closed, full, without a reader, or of an encoding that lacks characters."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import segpipe
from segpipe import terminal

COMMANDS = sorted(path.stem for path in Path(segpipe.__path__[0]).glob("*.py") if "\ndef main()" in path.read_text())
SAY = "from segpipe import terminal; terminal.prepare()\n"


def run(code, *, shell='exec "$@"', **options):
    """Run Python code behind a line of the shell, which may close streams."""
    return subprocess.run(["sh", "-c", shell, "sh", sys.executable, "-c", SAY + code], timeout=120, **options)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_name_can_be_printed(encoding):
    code = "import sys; print('é नम \\udcff'); print('é नम \\udcff', file=sys.stderr)"
    done = run(code, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    expected = "é नम \udcff\n".encode(encoding, errors="backslashreplace")
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, expected)


@pytest.mark.parametrize(
    "shell",
    [
        'exec "$@" > /dev/full 2>&1',
        'exec "$@" 1< /dev/null 2<&1',
        '("$@"; echo $? > status) | true; exit $(cat status)',
    ],
)
@pytest.mark.parametrize("flush", [False, True])
def test_output_that_cannot_be_written_is_dropped(shell, flush, tmp_path):
    """The disk of the log is full, a stream is for reading, or the reader is gone (``| head -1``): the work goes on."""
    code = f"import time; time.sleep(0.2); [print('x' * 9999, flush={flush}) for _ in range(50)]; open('done', 'w')"
    done = run(code, shell=shell, cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0
    assert (tmp_path / "done").exists()


def test_a_pipe_that_does_not_block_gets_everything():
    """Some programs give their pipes to the commands that they start with O_NONBLOCK: a full pipe refuses a write."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = "import sys; [print('x' * 999) for _ in range(500)]; print('y' * 200_000)"
    with subprocess.Popen([sys.executable, "-c", SAY + code], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            content = pipe.read()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert content == (b"x" * 999 + b"\n") * 500 + b"y" * 200_000 + b"\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_not_the_next_file(closed, tmp_path):
    code = "import sys; file = open('x', 'w'); print('out'); print('err', file=sys.stderr); file.write('mine')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = run(code, shell=f'exec "$@" {closed}', cwd=tmp_path, capture_output=True, env=environment)
    assert done.returncode == 0
    assert (tmp_path / "x").read_text() == "mine"


def test_output_without_a_buffer_is_printed_at_once():
    words = [sys.executable, "-u", "-c", f"{SAY}import os; print('first', end=''); os.write(1, b' second')"]
    assert subprocess.run(words, capture_output=True, timeout=120).stdout == b"first second"


def test_streams_of_a_caller_are_left_alone(capsys):
    from segpipe import terminal

    before = sys.stdout
    terminal.prepare()
    assert sys.stdout is before


@pytest.mark.parametrize(
    "words", [["--no-such-option"], ["x", "--no-such-option=3"], ["--no-such", "\x1b[31m"], ["-?"]]
)
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_a_wrong_option_is_one_line(command, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, *words])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"segpipe.{command}").main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert said.startswith("segpipe: ")
    assert said.endswith(f"Help: python -m segpipe.{command} --help\n")
    assert said.strip().isprintable()


def test_options_may_stand_between_other_words(monkeypatch):
    from segpipe.terminal import Parser

    parser = Parser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args(["a=1", "--all", "b=2"])
    assert (given.words, given.all) == (["a=1", "b=2"], True)


@pytest.mark.parametrize("words", [[""], ["run", ""], ["run", "images", "--out", ""], ["run", "images", "--out="]])
def test_an_empty_word_is_refused(words, capsys):
    """As of a variable of the shell that is not set; as a path, it would be the working folder."""
    parser = terminal.Parser(prog="command")
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--out", type=Path)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "empty, as of a variable of the shell that is not set. Give a value. Help: command --help" in said
    assert said.startswith("segpipe: --out: " if len(words) > 2 else f"segpipe: word {len(words)} ")
