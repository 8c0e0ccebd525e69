"""A command that cannot import its libraries says so in one line: too little memory, no environment, no folder."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import segpipe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits and messages of Linux")
PLACE = Path(segpipe.__file__).parent.parent
COMMANDS = ("train", "predict", "report")


def errors_of(module, folder, *, python=(sys.executable,), before=None):
    """What ``python -m segpipe.MODULE --help`` prints to standard error; it has to fail with status 1."""
    done = subprocess.run(
        [*python, "-m", f"segpipe.{module}", "--help"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PLACE)},
        capture_output=True,
        text=True,
        preexec_fn=before,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.parametrize("module", COMMANDS)
@pytest.mark.parametrize("limit", [250_000_000, 400_000_000])
def test_a_limit_of_the_memory(module, limit, tmp_path):
    errors = errors_of(module, tmp_path, before=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    last = errors.splitlines()[-1]  # OpenBLAS prints a line of its own for each thread that it cannot start
    assert last.startswith("segpipe: not enough memory to load the libraries (")
    assert "Traceback" not in errors


@pytest.mark.parametrize("module", COMMANDS)
def test_a_python_without_the_libraries(module, tmp_path):
    errors = errors_of(module, tmp_path, python=(sys.executable, "-S"))  # no site-packages
    (line,) = errors.splitlines()
    assert line.startswith("segpipe: No module named ")
    assert f"(in {sys.executable}). Activate the environment" in line


@pytest.mark.parametrize("module", COMMANDS)
def test_a_working_folder_that_was_removed(module, tmp_path):
    folder = tmp_path / "removed"
    folder.mkdir()
    errors = errors_of(module, folder, before=folder.rmdir)
    (line,) = errors.splitlines()
    assert line.startswith("segpipe: the working folder cannot be used (")


def test_an_error_in_the_program_keeps_its_traceback(tmp_path):
    code = "import sys; from segpipe import terminal; terminal.begin_imports(); {then}import segpipe.no_such_module"
    for then in ("", "terminal.end_imports(); "):
        words = [sys.executable, "-c", code.format(then=then)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert done.stderr.startswith("Traceback")
        assert "No module named 'segpipe.no_such_module'" in done.stderr


@pytest.mark.parametrize(("command_line", "error"), [(["-m"], SystemExit), (["a.py"], ImportError)])
def test_an_old_python(command_line, error, monkeypatch):
    monkeypatch.setattr(sys, "argv", command_line)
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(error, match=r"segpipe needs Python 3\.11 or newer\. This is "):
        exec(compile(Path(segpipe.__file__).read_text(), "segpipe", "exec"), {"__name__": "segpipe"})
