"""Short messages for errors that the user can fix. Errors in the program keep their traceback.

An error is explained by the first of EXPLAINERS that knows it. Further kinds of errors are to be added there.
"""

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segpipe import terminal
from segpipe.config.choice_hints import choice_hint
from segpipe.config.hints import choices_with, groups, hint_for, leaves
from segpipe.config.overrides import grammar_problem, quoted_override
from segpipe.config.schema import keys, options
from segpipe.errors import INTERRUPTED, UserError, nearest, printable
from segpipe.runs.run import PYTHON

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REASONS = {  # of errors of the file system, each with what to do
    errno.ENOENT: "there is no such file or folder. Give an existing one; it may have been moved or removed meanwhile.",
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
TAKES_NO_FILES = "the system takes no files at this place. Choose another one."
MAKING = ("makedirs", "mkdir", "mkdtemp", "_mkstemp_inner", "of_file")  # functions that make a file or a folder
OF_THE_SYSTEM = {  # errors that concern no file
    errno.EMFILE: REASONS[errno.EMFILE],
    errno.ENFILE: "the system has too many open files. End other programs, or take fewer data.workers.",
    errno.EAGAIN: "the system starts no further process. Raise the limit (ulimit -u), or take fewer data.workers or "
    "sweep.workers.",
    errno.EIO: REASONS[errno.EIO],
    errno.ESTALE: REASONS[errno.ESTALE],
    errno.ENOSYS: "the system lacks a function that processes need to share memory (/dev/shm). Set data.workers=0.",
    errno.ENOENT: "the folder of this command may have been removed. Change to an existing one: cd FOLDER",
    errno.EADDRINUSE: "another program uses the port of the ranks. Choose another one: MASTER_PORT=NUMBER.",
}
OUT_OF_MEMORY = (  # parts of the texts of torch, OpenCV and CUDA's libraries
    "can't allocate memory", "out of memory", "Insufficient memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED", "Unable to allocate",
)  # fmt: skip
SMALLER_TRAINING = (
    "Take a smaller data.batch_size, or split the batch with task.accumulate=2 or more, or take a smaller data.crop or "
    "fewer sweep.workers."
)
SMALLER_EVALUATION = (
    "It happened while whole images were evaluated, which training crops do not change. Take a smaller "
    "data.eval_batch_size, or smaller images by data.size=[HEIGHT,WIDTH], or fewer sweep.workers."
)
SMALLER_IMAGE = "Reduce the image, or cut it into tiles, or use the memory of the machine: --device cpu."
SMALLER_NETWORK = (
    "It happened while the network was built. Take a smaller model.width, a smaller neck.width, or a smaller encoder."
)
SMALLER = {  # by a function that was running: what needs less memory there
    "validation_step": SMALLER_EVALUATION,
    "test_step": SMALLER_EVALUATION,
    "network": SMALLER_NETWORK,
    "evaluate": SMALLER_EVALUATION.replace("or fewer sweep.workers", "each after --data"),
    "logits": SMALLER_IMAGE,
    "tiles": SMALLER_IMAGE,
    "as_input": SMALLER_IMAGE,
    "write_outputs": SMALLER_IMAGE,
}
LOADER_FAILURES = (  # parts of torch's messages
    "DataLoader timed out", "killed by signal: Bus error", "unable to open shared memory object",
    "unable to write to file </torch_", "unable to mmap", "received 0 items of ancdata", "AF_UNIX path too long",
)  # fmt: skip
LOADER_ENDED = re.compile(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (exited unexpectedly|is killed by signal)")
IN_WORKER = re.compile(
    r"\[Errno (\d+)\] ([^:\n]*)(?:: '(.*)')?\s*\Z"
)  # the last line of an error of a loader's process
SHOWN = 4  # choices in a message
LONGEST_NAME = 300  # characters of a path in a message
PLUGINS = {"launcher": "joblib or submitit_slurm", "sweeper": "optuna"}
COMPOSING = re.compile(r"[/\\\\]hydra[/\\\\](_internal[/\\\\](?!instantiate)|core[/\\\\]override_parser)")


@contextmanager
def user_errors(*, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Context manager that turns an error that the user can fix into a short message and exit status 1.

    Ctrl-C gives exit status 130. Other errors are raised again, as are those of ``but``. The standard streams are
    prepared first.
    """
    terminal.prepare()
    terminal.end_imports()
    try:
        yield
    except KeyboardInterrupt:
        print("segpipe: interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except but:
        raise
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        print(f"segpipe: {printable(message)}", file=sys.stderr)
        sys.exit(1)


def explain(error: BaseException) -> str | None:
    """Return a short message for an error that the user can fix; None for an error in the program."""
    return next((text for explain_one in EXPLAINERS if (text := explain_one(error))), None)


def explain_user_error(error: BaseException) -> str | None:
    """Explain an error of this program. Hydra may wrap it in an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            # A worker of a data loader puts its traceback before the message.
            return str(cause).rpartition(f"{UserError.__name__}: ")[2].strip()
        cause = cause.__cause__
    return None


def explain_system_error(error: BaseException) -> str | None:
    """Explain an error of the file system or of the system, also of one in a loader's process."""
    if not isinstance(error, OSError) or isinstance(error, HydraException):
        return None
    if error.errno is None:
        found = IN_WORKER.search(str(error))
        return explain_system_error(OSError(int(found[1]), found[2], found[3])) if found else None
    if error.errno in NO_SPACE:
        limit = ", or raise the limit of a file's size (ulimit -f)" if error.errno == errno.EFBIG else ""
        return (
            f"{error}. Free some space{limit}, then run the same command again: a sweep with its sweep.name, a "
            f"training with resume=FOLDER. Finished runs are kept, unfinished runs are resumed."
        )
    if error.errno == errno.ENOMEM:
        return f"Out of memory ({error.strerror}). {smaller(error)}"
    if error.filename is None:
        advice = OF_THE_SYSTEM.get(error.errno)
        if error.errno == errno.ENOENT and "temporary" in str(error.strerror):
            advice = "Set TMPDIR=FOLDER to a folder that can be written."
        return f"{error.strerror}: {advice}" if advice else None
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    frames = traceback.extract_tb(error.__traceback__)
    if error.errno == errno.ENOENT and frames and frames[-1].name in MAKING and os.path.isdir(os.path.dirname(name)):
        return f"{name}: {TAKES_NO_FILES}"
    name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    return f"{name}: {REASONS.get(error.errno, f'{error.strerror}. Check this place, or choose another one.')}"


def explain_memory(error: BaseException) -> str | None:
    """Explain that memory ran out, with what needs less of it at the place where it happened."""
    text = str(error).strip()
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not (
        isinstance(error, RuntimeError | OSError | cv2.error) and any(sign in text for sign in OUT_OF_MEMORY)
    ):
        return None
    in_worker = "DataLoader worker process" in text
    reason = text.splitlines()[-1 if in_worker else 0] if text else type(error).__name__
    return f"Out of memory ({reason}). {smaller(error)}"


def smaller(error: BaseException) -> str:
    """Return what needs less memory, by the functions that were running."""
    running = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return next((SMALLER[name] for name in reversed(running) if name in SMALLER), SMALLER_TRAINING)


def explain_processes(error: BaseException) -> str | None:
    """Explain a failure of the processes that load the data, of threads, and of ranks that do not find each other."""
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in LOADER_FAILURES):
        return (
            f"The processes that load the data failed ({first}). Often /dev/shm, their shared memory, is too small for "
            f"the batches. Set data.workers=0 or a smaller data.batch_size, or give more shared memory (for a "
            f"container: --shm-size)."
        )
    if isinstance(error, RuntimeError) and LOADER_ENDED.search(first):
        return (
            f"A process that loads the data has ended ({first}). Often the memory of the machine was exhausted, and "
            f"the system has ended it. Set fewer data.workers (0: none), or data.cache=off."
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in first:
        return f"{first}: {OF_THE_SYSTEM[errno.EAGAIN]}"
    if isinstance(error, torch.distributed.DistError) or "env:// rendezvous" in first:
        return (
            f"The ranks do not find each other ({first}). RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT have to be set "
            f"as torchrun does, and the port has to be free. To train with one process, unset RANK and WORLD_SIZE."
        )
    return None


def explain_torch(error: BaseException) -> str | None:
    """Explain errors of the GPU's driver and of the compiler that torch.compile uses."""
    text = str(error)
    first = text.strip().partition("\n")[0]
    compiling = type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "triton"))
    if compiling or "Failed to find C compiler" in text:
        return f"task.compile=true: torch.compile failed ({first}). Install a C++ compiler, or set task.compile=false."
    driver = "NVIDIA driver" in text or "CUDA driver" in text or "no kernel image" in text
    if isinstance(error, RuntimeError | AssertionError) and (driver or "Torch not compiled with CUDA" in text):
        return (
            f"torch cannot use the GPU ({first}). Install a torch for this driver, or take trainer=cpu (--device cpu)."
        )
    return None


def explain_group(error: BaseException) -> str | None:
    """Explain a choice that a config group does not have."""
    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file or not error.options:
        return None
    given = error.missing_cfg_file
    group, _, choice = given.partition("/")  # a name may have a folder: paper/fcn8s
    allowed = options(group)
    if not allowed:  # a group of Hydra's, or of the user's own
        group, _, choice = given.rpartition("/")
        allowed = list(error.options)
    return f"{group}={choice}: allowed is one of {', '.join(allowed)}.{choice_hint(group, choice, allowed)}"


def explain_grammar(error: BaseException) -> str | None:
    """Explain an override that Hydra cannot read, with the override as it has to be typed."""
    return grammar_problem(str(error.override), str(error)) if isinstance(error, OverrideParseException) else None


def explain_key(error: BaseException) -> str | None:
    """Explain a key that the configuration does not have, or has already: the choices that have it, or the nearest."""
    if not isinstance(error, HydraException):
        return None
    text = str(error)
    if twice := re.match(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"+{twice[1]}: this key exists already. Write {twice[1]}=VALUE, without the +."
    if twice := re.match(r"(\S+) appears more than once in the final defaults list", text):
        return f"{twice[1]}: this group is chosen twice. Write {twice[1]}=NAME once, without a +."
    if lacking := re.match(r"Could not delete from config\. '([^']+)' does not exist", text):
        known = [*keys(), *groups()]
        if lacking[1] in known:  # Hydra finds no key whose value is null
            return f"~{lacking[1]}: it is null, or this choice does not have it. Leave the override out."
        return f"~{lacking[1]}: there is no such key.{hint_for(lacking[1], known)}"
    found = re.match(r"Could not override '([^']+)'", text)
    if not found:
        return None
    given = found[1]
    parent = getattr(error.__cause__, "parent_node", None)
    cfg = parent._get_root() if parent is not None else None
    known = [*leaves(cfg), *groups()] if isinstance(cfg, DictConfig) else [*keys(), *groups()]
    group, _, rest = given.partition(".")
    choice = OmegaConf.select(cfg, f"{group}.name") if isinstance(cfg, DictConfig) else None
    with_choice = f" with {group}={choice}" if isinstance(choice, str) else ""
    if having := choices_with(group, rest):
        others = " or another one that has it" if len(having) > SHOWN else ""
        return f"{given}: there is no such key{with_choice}. Give {' or '.join(having[:SHOWN])}{others}."
    if chosen := re.match(r"hydra\.(launcher|sweeper)\.", given):
        others = f"Choose another one first, such as hydra/{chosen[1]}={PLUGINS[chosen[1]]}."
        return f"{given}: the {chosen[1]} that is chosen has no such key. {others}"
    add = f" To give an argument that is not listed, write +{given}=VALUE." if rest and group in known else ""
    return f"{given}: there is no such key{with_choice}.{hint_for(given, known)}{add}"


def explain_library(error: BaseException) -> str | None:
    """Explain a value that a constructor or Lightning rejects."""
    if isinstance(error, InstantiationException):  # else an error in the program
        cause = error.__cause__
        return str(cause) if isinstance(cause, ValueError) or is_lightning_error(cause) else None
    return str(error) if is_lightning_error(error) else None


def explain_optuna(error: BaseException) -> str | None:
    """Explain that Optuna's sweeper has no best trial."""
    if not isinstance(error, ValueError) or not str(error).startswith("No trials are completed"):
        return None
    return "No trial has a result: each cell is invalid, or its run is not finished. The reasons are above."


def explain_hydra(error: BaseException) -> str | None:
    """Explain any other error of Hydra or OmegaConf by its first lines."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ValueError | TypeError | AssertionError) and frames and COMPOSING.search(frames[-1].filename):
        first = str(error).strip().partition("\n")[0]
        if first.startswith("Config group override must be"):
            return (
                "A config group needs the name of one of its choices, such as logger=none or decoder=deconv, not null, "
                "true or a number."
            )
        return f"Hydra cannot use this command line ({first}). Check the overrides."
    if not isinstance(error, HydraException | OmegaConfBaseException) or isinstance(error, InstantiationException):
        return None
    lines = [line.rstrip() for line in str(error).strip().partition("\n\n")[0].splitlines()]
    if lines[0].startswith(("Ambiguous value", "Sweep parameters")) and (found := re.search(r"'(.*)'", lines[0])):
        key, _, value = found[1].partition("=")
        text = ""
        if lines[0].startswith("Ambiguous") and key.lstrip("+") not in groups():
            text = f" For a text with a comma, write {quoted_override(key, value)}. For a list, write {key}=[{value}]"
        if re.fullmatch(r"\d+,\d+", value):
            text += f"; for a decimal number, {key}={value.replace(',', '.')}"
        return f"{found[1]}: several values. For a sweep over them, add -m: {PYTHON} -m segpipe.train -m ...{text}"
    if "does not support sweep type" in lines[0]:
        return (
            f"{lines[0].partition(' ')[0]} takes lists of values only: KEY=1e-4,1e-3 or KEY=range(0,5). For "
            f"interval(), give a sweeper that chooses values: hydra/sweeper=optuna."
        )
    if "interpolation" in lines[0].lower():
        where = " ".join(line.strip() for line in lines[:2])
        return (
            f"{where}. In a value, ${{NAME}} is another key of the configuration; for a variable of the shell, write "
            f"$NAME, without quotes of the kind '...'."
        )
    wrong = re.search(r"'([^']+)'", lines[0]) if re.search("key|overrid", lines[0], re.IGNORECASE) else None
    known = [*keys(), *groups()]
    given = wrong[1].lstrip("+~").partition("=")[0] if wrong else ""
    hint = nearest(given, known) if given and given not in known else ""
    return " ".join(line.strip() for line in lines[:3]) + hint


def is_lightning_error(error: BaseException | None) -> bool:
    """Return whether an error is Lightning's error for an invalid setting. Lightning is not imported: that is slow."""
    module = sys.modules.get("lightning_fabric.utilities.exceptions")
    return module is not None and isinstance(error, module.MisconfigurationException)


EXPLAINERS: tuple[Callable[[Any], str | None], ...] = (
    explain_user_error, explain_memory, explain_processes, explain_system_error, explain_torch, explain_group,
    explain_grammar, explain_key, explain_library, explain_optuna, explain_hydra,
)  # fmt: skip
