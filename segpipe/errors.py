"""The errors that the user can fix."""

import difflib
from collections.abc import Iterable

INTERRUPTED = 130  # the exit status of an interrupted program, as shells expect it


class UserError(Exception):
    """Raised for an input that cannot be used. The message says what was given, what is allowed, and what to do.

    Commands print only the message and end with status 1. Python callers get the exception.
    """


class InvalidCombination(UserError):
    """Raised where each value is allowed, but their combination is invalid, or where no width meets the budget."""


def nearest(given: object, allowed: Iterable[object]) -> str:
    """Return ``Did you mean ...?`` with the allowed word nearest to ``given``; an empty string if none is near."""
    close = difflib.get_close_matches(str(given), [str(word) for word in allowed], n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
