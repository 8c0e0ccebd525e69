"""Errors that are the user's to mend, in a few lines; ours keep their traceback."""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from segpipe.config.schema import CONF, keys, options
from segpipe.errors import UserError, nearest

INTERRUPTED = 130  # the exit status that shells expect


@contextmanager
def user_errors() -> Iterator[None]:
    """Inside, an error that is the user's to mend ends the program in a few lines, with status 1."""
    try:
        yield
    except KeyboardInterrupt:
        print("segpipe: interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        print(f"segpipe: {message}", file=sys.stderr)
        sys.exit(1)


def explain(error: BaseException) -> str | None:
    """A few lines for an error that is the user's to mend; None for one that is ours."""
    cause: BaseException | None = error
    while cause is not None:  # ours may lie below what Hydra makes of it
        if isinstance(cause, UserError):
            # A loader's worker puts its stack before the message.
            return str(cause).rpartition(f"{UserError.__name__}: ")[2].strip()
        cause = cause.__cause__
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
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, given = error.missing_cfg_file.partition("/")  # a name may have a folder: paper/fcn8s
        return f"{group}={given}: allowed is one of {', '.join(options(group))}.{nearest(given, options(group))}"
    if isinstance(error, InstantiationException):  # a value that a constructor would not have; else a bug of ours
        return (
            str(error.__cause__)
            if isinstance(error.__cause__, ValueError) or is_lightning_error(error.__cause__)
            else None
        )
    if is_lightning_error(error):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        lines = str(error).strip().splitlines()
        wrong = re.search(r"'([^']+)'", lines[0])
        known = [*keys(), *(path.name for path in CONF.iterdir())]
        if "=~" in str(error):
            return "\n".join([*lines[:3], "The shell leaves ~ as it is here, and Hydra cannot read it: write $HOME."])
        return "\n".join([*lines[:3]]) + (nearest(wrong[1].lstrip("+~"), known) if wrong else "")
    return None


def is_lightning_error(error: BaseException | None) -> bool:
    """Whether Lightning complains of a setting. It is not imported for that: that takes seconds."""
    module = sys.modules.get("lightning_fabric.utilities.exceptions")
    return module is not None and isinstance(error, module.MisconfigurationException)
