"""Short messages for errors that the user can fix. Errors in the program keep their traceback."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segpipe.config.schema import CONF, keys, options
from segpipe.errors import INTERRUPTED, UserError, nearest, printable

REASONS = {  # of errors of the file system, each with what to do
    errno.EACCES: "no permission to read or write it. Change its permissions, or choose another place.",
    errno.EPERM: "the system does not allow it. Change the permissions, or choose another place.",
    errno.EROFS: "this place is read-only. Choose another place.",
    errno.ENOTDIR: "a part of this path is a file, not a folder. Remove or rename the file, or choose another place.",
    errno.EEXIST: "there is already a file where a folder is needed. Remove or rename it, or choose another place.",
    errno.EISDIR: "this is a folder, but a file is needed. Remove or rename it, or choose another place.",
    errno.ENAMETOOLONG: "the name is longer than this file system allows. Choose a shorter one.",
    errno.ELOOP: "the links lead in a circle. Remove one of them.",
    errno.EMFILE: "too many open files. Raise the limit (ulimit -n), or take fewer data.workers.",
    errno.EIO: "the disk or the network file system reports an error. Check it, then run the same command again.",
    errno.ESTALE: "the network file system has lost this file. Run the same command again.",
}
LOADER_FAILURES = ("DataLoader timed out", "killed by signal: Bus error")  # the beginnings of torch's messages


@contextmanager
def user_errors() -> Iterator[None]:
    """Context manager that turns an error that the user can fix into a short message and exit status 1.

    Ctrl-C gives exit status 130. Other errors are raised again.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("segpipe: interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        print(f"segpipe: {printable(message)}", file=sys.stderr)
        sys.exit(1)


def explain(error: BaseException) -> str | None:
    """Return a short message for an error that the user can fix; None for an error in the program."""
    cause: BaseException | None = error
    while cause is not None:  # Hydra may wrap a UserError in an error of its own
        if isinstance(cause, UserError):
            # A worker of a data loader puts its traceback before the message.
            return str(cause).rpartition(f"{UserError.__name__}: ")[2].strip()
        cause = cause.__cause__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{error}. Free some space, then run the same command again: a sweep with its sweep.name, a training with "
            f"resume=FOLDER. Finished runs are kept, unfinished runs are resumed."
        )
    if isinstance(error, OSError) and error.filename is not None and error.errno in REASONS:
        return f"{os.fsdecode(error.filename)}: {REASONS[error.errno]}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return (
            f"Out of memory ({str(error).strip().partition(chr(10))[0]}). Take a smaller data.batch_size, or split the "
            f"batch with task.accumulate=2 or more, or take a smaller data.crop or fewer sweep.workers."
        )
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOADER_FAILURES):
        return (
            f"The processes that load the data failed ({str(error).strip().partition(chr(10))[0]}). Often /dev/shm, "
            f"their shared memory, is too small for the batches. Set data.workers=0 or a smaller data.batch_size, or "
            f"give more shared memory (for a container: --shm-size)."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, given = error.missing_cfg_file.partition("/")  # a name may have a folder: paper/fcn8s
        return f"{group}={given}: allowed is one of {', '.join(options(group))}.{nearest(given, options(group))}"
    if isinstance(error, InstantiationException):  # a value that a constructor rejects; else an error in the program
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
            return "\n".join([*lines[:3], "The shell does not expand ~ here, and Hydra cannot read it: write $HOME."])
        return "\n".join([*lines[:3]]) + (hint(wrong[1].lstrip("+~"), known) if wrong else "")
    return None


def hint(key: str, known: list[str]) -> str:
    """Return what to give instead of a key that the configuration does not have: a choice that has it, or another key.

    known: the keys of the default configuration, and the config groups.
    """
    if key not in known:
        return nearest(key, known)
    group, _, rest = key.partition(".")
    files = ((name, OmegaConf.load(CONF / group / f"{name}.yaml")) for name in (options(group) if rest else ()))
    having = [f"{group}={name}" for name, node in files if rest.partition(".")[0] in node]
    return f" This choice of {group} has no such key. Give {' or '.join(having)}." if having else ""


def is_lightning_error(error: BaseException | None) -> bool:
    """Return whether an error is Lightning's error for an invalid setting. Lightning is not imported: that is slow."""
    module = sys.modules.get("lightning_fabric.utilities.exceptions")
    return module is not None and isinstance(error, module.MisconfigurationException)
