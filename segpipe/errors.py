"""The one error that is the user's to mend."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something given cannot be used: the message says what it was, what is allowed, and what to do.

    Commands print the message alone and end with status 1; Python callers get it as an exception.
    """


class InvalidCombination(UserError):
    """Each value is allowed, but not together with the others; or no width meets the budget that was asked for."""


def nearest(given: object, allowed: Iterable[object]) -> str:
    """A question for the allowed word nearest to ``given``, to stand behind a message; nothing where none is near."""
    close = difflib.get_close_matches(str(given), [str(word) for word in allowed], n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
