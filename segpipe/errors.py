"""What is the user's to mend, in words."""

import difflib
import errno
from collections.abc import Iterable

import torch


class UserError(Exception):
    """Something given cannot be used: the message says what it was, what is allowed, and what to do.

    Commands print the message alone and end with status 1; Python callers get it as an exception.
    """


def nearest(given: object, allowed: Iterable[object]) -> str:
    """A question for the allowed word nearest to ``given``, to stand behind a message; nothing where none is near."""
    close = difflib.get_close_matches(str(given), [str(word) for word in allowed], n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def of_the_machine(error: BaseException) -> str | None:
    """What to do where the disk is full or memory runs out; None for other errors."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{error}. Free some space, then give the same command again: a sweep with its sweep.name, a training with "
            f"resume=FOLDER. What is finished is kept, what had begun goes on."
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return (
            f"Out of memory ({str(error).strip().partition(chr(10))[0]}). Take a smaller data.batch_size, the same in "
            f"parts with task.accumulate=2 or more, a smaller data.crop, or fewer sweep.workers."
        )
    return None
