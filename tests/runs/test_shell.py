"""Commands as they are printed: what a person would type, and bash reads the same words."""

import subprocess

import pytest

from segpipe.runs.run import quote_override, shell_line, shell_word, shell_words

NASTY = [
    "my photos", "it's", 'say "hi"', """both ' and \"""", "$HOME", "`id`", "a\\b", "a\\", "\\'", "'$x'", "'!1'", "!x'y",
    "[1,2]", "{split}/{name}", "a,b", "(1)", "x=1", "*?", "#x", "~", "; ls", "& |", "<>", "tab\there", "line\nbreak",
    "", "-x", "straße", "नमस्ते", "图片", "\u00a0", "%d", "'''", "\\\\'", "'\\$'", "\\`'",
]  # fmt: skip


def test_bash_reads_the_same_words():
    words = [f"data.root={form(value)}" for value in NASTY for form in (str, quote_override)]
    command = f"printf '%s\\0' {shell_line([*words, *NASTY])}"
    read = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout.decode()
    assert read.split("\0")[:-1] == [*words, *NASTY]


@pytest.mark.parametrize(
    ("word", "typed"),
    [
        ("seed=1", "seed=1"),
        ("data.crop=[32,32]", "'data.crop=[32,32]'"),
        ("data.dataset.masks='{name}_mask.png'", "\"data.dataset.masks='{name}_mask.png'\""),
        ("data.root='my photos'", "\"data.root='my photos'\""),
        ("data.root='a\"b'", '"data.root=\'a\\"b\'"'),
        ("stages=['model=fcn32s','model=fcn16s']", "\"stages=['model=fcn32s','model=fcn16s']\""),
    ],
)
def test_a_word_is_printed_as_a_person_types_it(word, typed):
    assert shell_word(word) == typed


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a logger.notes=run#1 b", ["a", "logger.notes=run#1", "b"]),
        ("# a b", []),
        ("  # it's", []),
        ("a # b", ["a"]),
        ("a #b 'c", ["a"]),
        ("'a #b' c", ["a #b", "c"]),
        ('"a #b" c', ["a #b", "c"]),
        ("'#a' b", ["#a", "b"]),
        ("'a'#b c", ["a#b", "c"]),
        ("'a' #b c", ["a"]),
        ('x="a b"#1 "c" #d', ["x=a b#1", "c"]),
        ("a\\ #b c", ["a #b", "c"]),
        ("\\#a b", ["#a", "b"]),
        ("a\u00a0#b c", ["a\u00a0#b", "c"]),
    ],
)
def test_a_comment_begins_where_bash_begins_one(line, words):
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout.decode()
    assert read.split("\0")[:-1] == (words or [""])  # printf without words prints its format once
    assert shell_words(line) == words
