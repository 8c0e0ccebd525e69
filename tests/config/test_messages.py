"""Errors that the user can fix, in one line."""

import errno
import os

import pytest

from segpipe.config.messages import REASONS, explain, user_errors
from segpipe.errors import UserError, printable


@pytest.mark.parametrize("number", sorted(REASONS))
def test_an_error_of_the_file_system_names_the_file_and_what_to_do(number):
    said = explain(OSError(number, os.strerror(number), "some/file"))
    assert said.startswith("some/file: ")
    assert said.endswith(".")


def test_a_real_one(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended, user_errors():
        (tmp_path / "file" / "x").write_text("")
    assert ended.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_error_in_the_program_is_not_explained():
    assert explain(OSError(errno.EBADF, "bad file descriptor")) is None
    assert explain(KeyError("x")) is None


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\rb", "\u202egnp.exe", "\x9b0m", "bytes \udcff", "bell \x07", "\0"])
def test_what_a_terminal_would_obey_is_written_out(text, capsys):
    shown = printable(text)
    assert "\\" in shown
    assert shown.isprintable()
    with pytest.raises(SystemExit), user_errors():
        raise UserError(text)
    assert capsys.readouterr().err == f"segpipe: {shown}\n"


@pytest.mark.parametrize("text", ["straße", "नमस्ते", "a\nb\tc", "👩\u200d🚀"])
def test_other_texts_stay_as_they_are(text):
    assert printable(text) == text
