"""The terminal of a command: standard streams that are open and can print every name, and what ends the imports.

``prepare`` is called by every command before it prints. It changes the streams of the process, never those that a
caller has put in their place.
"""

import argparse
import errno
import io
import os
import re
import select
import signal
import sys
from contextlib import suppress
from itertools import pairwise
from types import TracebackType
from typing import Any, NoReturn

from segpipe.errors import INTERRUPTED, nearest, printable

SHOW_CURSOR = b"\x1b[?25h"  # for a terminal
GONE = (  # the reader or the terminal is gone; the disk is full; the stream is open for reading only
    errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET, errno.ENOTCONN, errno.ESTALE, errno.ENOSPC, errno.EDQUOT,
    errno.EFBIG, errno.EBADF, errno.EINVAL,
)  # fmt: skip
LACKS_MEMORY = ("failed to map segment", "annot allocate memory", "annot create shared object")  # of the loader


class Parser(argparse.ArgumentParser):
    """The parser of a command line. An error is one line, and options may stand anywhere between the other words."""

    def parse_args(self, *arguments: Any, **named: Any) -> Any:
        """See ArgumentParser. An empty word is refused: as a path, it would be the working folder."""
        words = sys.argv[1:] if not arguments or arguments[0] is None else arguments[0]
        if empty := [number for number, word in enumerate(words) if not word or re.fullmatch(r"--[\w-]+=", word)]:
            place = words[empty[0]] or (words[empty[0] - 1] if empty[0] else "the first word")
            self.error(
                f"{place.rstrip('=')}: a value is empty, as of a variable of the shell that is not set. Give a value."
                if place.startswith("--")
                else f"word {empty[0] + 1} is empty, as of a variable of the shell that is not set. Give a value."
            )
        return self.parse_intermixed_args(*arguments, **named)

    def add_device(self, *, more: str = "") -> None:
        """Add ``--device``. more: a further default, for the help."""
        self.add_argument(
            "--device", help=f"a device name of torch: cpu, cuda (default: a GPU if there is one{more and f'; {more}'})"
        )

    def add_trust(self, *, whose: str = "the run") -> None:
        """Add ``--trust``, which may be given several times."""
        about = f"a package whose classes {whose} may use"
        self.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help=about)

    def error(self, message: str) -> NoReturn:
        """Print the error and how to get help, and end with status 2."""
        text = printable(message)
        if unknown := re.fullmatch(r"unrecognized arguments: (.*)", text, re.DOTALL):
            given = unknown[1].split()[0].partition("=")[0]
            text = f"{unknown[1]}: there is no such option.{nearest(given, self._option_string_actions, similar=0.75)}"
        end = "" if text.endswith((".", "?")) else "."
        print(f"segpipe: {text}{end} Help: {self.prog} --help", file=sys.stderr)
        sys.exit(2)


class Descriptor(io.FileIO):
    """A descriptor to write to. What cannot be written, because its reader is gone or its disk full, is dropped."""

    def write(self, data: Any, /) -> Any:
        """See FileIO."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left:
                if (written := super().write(left)) is None:  # a pipe that does not block, and is full
                    select.select([], [self], [])
                left = left[written or 0 :]
        except OSError as error:
            if error.errno not in GONE:
                raise
        return size


def prepare() -> None:
    r"""Open the standard streams that are closed, and let output and errors drop what cannot be written or encoded.

    A character that the encoding of a stream lacks is printed as ``\xe9``.
    """
    open_closed()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        is_of_process = stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper)
        if is_of_process and not isinstance(getattr(stream.buffer, "raw", stream.buffer), Descriptor):
            with suppress(OSError):
                stream.flush()
            descriptor = Descriptor(number, "w", closefd=False)
            replacement = io.TextIOWrapper(
                io.BufferedWriter(descriptor) if hasattr(stream.buffer, "raw") else descriptor,  # else: python -u
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, replacement)
            setattr(sys, f"__{name}__", replacement)


def open_closed() -> None:
    """Connect each of standard input, output and error that is closed to the null device.

    A file or pipe that is opened later would get its number, and children would read or write the wrong one.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115  (until the process ends)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def starts_command() -> bool:
    """Return whether this process is ``python -m segpipe.COMMAND``, also while Python still looks for the command."""
    return any(word.startswith("segpipe.") for option, word in pairwise(sys.orig_argv) if option == "-m")


def exit_at_once(number: int, frame: object) -> None:
    """Signal handler: end the process with one line and the status of an interrupted program."""
    with suppress(OSError):
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)  # a live view of a sweep hides it
        os.write(2, b"segpipe: interrupted.\n")
    os._exit(INTERRUPTED)


def begin_imports() -> None:
    """Let Ctrl-C, and a library that cannot be imported, end the command with one line, until ``end_imports``.

    A command imports its modules for seconds, and has nothing to save meanwhile. Ends the process where its working
    folder has been removed: some libraries cannot be loaded there.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in a job that the shell has put aside
        signal.signal(signal.SIGINT, exit_at_once)
    sys.excepthook = report_import
    try:
        os.getcwd()
    except OSError as error:
        sys.exit(f"segpipe: the working folder cannot be used ({error.strerror}). Change to another one: cd FOLDER")


def end_imports() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, and errors be shown with their traceback."""
    if signal.getsignal(signal.SIGINT) is exit_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.excepthook is report_import:
        sys.excepthook = sys.__excepthook__


def report_import(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the line of an error that comes from the installation or the memory; the traceback of any other."""
    text = printable(str(error).partition("\n")[0] or kind.__name__)
    if isinstance(error, MemoryError) or any(sign in text for sign in LACKS_MEMORY):
        line = f"not enough memory to load the libraries ({text}). End other programs, or raise the limit (ulimit -v)."
    elif isinstance(error, ImportError) and not str(error.name).startswith("segpipe"):
        line = (
            f"{text} (in {sys.executable}). Activate the environment that has segpipe (source .venv/bin/activate), "
            f"or install it and what it needs: make setup, or python -m pip install ."
        )
    else:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"segpipe: {line}", file=sys.stderr)
