"""The errors that the user can fix, and the texts of messages."""

import difflib
import re
from collections.abc import Iterable

INTERRUPTED = 130  # the exit status of an interrupted program, as shells expect it

# Characters that a terminal obeys: control characters but for newline and tab, and those that reverse the direction of
# writing; halves of surrogate pairs, which stand for the bytes of a file name that is not UTF-8, cannot be printed.
NOT_PRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Return a text that can be printed. Characters that a terminal would obey are written as ``\x1b``.

    Names of files and classes may come from a stranger.
    """
    return NOT_PRINTABLE.sub(lambda found: repr(found[0])[1:-1], str(text))


def one_line(text: object) -> str:
    r"""Return a text as one line, as ``printable``: a newline, as of the name of a file, is written as ``\n``."""
    return printable(text).replace("\n", r"\n")


class UserError(Exception):
    """Raised for an input that cannot be used. The message says what was given, what is allowed, and what to do.

    Commands print only the message and end with status 1. Python callers get the exception.
    """

    def __str__(self) -> str:
        """The message, printable."""
        return printable(super().__str__())


class InvalidCombination(UserError):
    """Raised where each value is allowed, but their combination is invalid, or where no width meets the budget."""


def nearest(given: object, allowed: Iterable[object], *, similar: float = 0.6) -> str:
    """Return ``Did you mean ...?`` with the allowed word nearest to ``given``; an empty string if none is near.

    Case and the kind of dash are ignored. similar: the least similarity, 0 to 1, see ``difflib``.
    """
    words = {str(word).lower().replace("-", "_"): str(word) for word in allowed}
    close = difflib.get_close_matches(str(given).lower().replace("-", "_"), words, n=1, cutoff=similar)
    return f" Did you mean '{words[close[0]]}'?" if close else ""


def pluralise(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: ``1 seed``, ``5 seeds``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def in_words(seconds: float) -> str:
    """Return a duration in the unit that suits it: ``0.4 s``, ``12 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if 0 < seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
