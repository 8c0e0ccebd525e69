"""The end of the process of a training: by a signal, and a fast exit."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from segpipe.terminal import exit_at_once

STARTED = os.getpid()  # of the process that imported this module; a forked child has another
REPEATED = 2.0  # seconds: a signal within this time after the first one is the same request, sent twice
HOLD_SECONDS = 8.0  # that a step of the optimizer has in order to end after a signal; less than processes.GRACE
signals: dict[int, float] = {}  # those that asked this process to end, each with the time of its first arrival
held = [False]  # whether a signal has to wait for the end of a step


def forget_signals() -> None:
    """Start a forked child without its parent's signals."""
    signals.clear()
    held[0] = False


os.register_at_fork(after_in_child=forget_signals)


def raise_on_signals() -> None:
    """Raise KeyboardInterrupt after SIGINT, SIGTERM and SIGHUP: records are written, and children are ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP on purpose
            signal.signal(number, raise_keyboard_interrupt)


def hold() -> None:
    """Let a signal wait until ``release``: a step of the optimizer is finished and can be saved. See HOLD_SECONDS."""
    held[0] = True


def release() -> None:
    """Raise KeyboardInterrupt if a signal waits. Signals are obeyed at once again."""
    held[0] = False
    if signals:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt


def end_hold(number: int, frame: object) -> None:
    """Signal handler of the timer: a step takes too long, so the signal is obeyed now."""
    if held[0]:
        held[0] = False
        raise KeyboardInterrupt


def raise_keyboard_interrupt(number: int, frame: object) -> None:
    """Signal handler: store the signal and raise KeyboardInterrupt, during a step of the optimizer after it.

    While the process is ending, a further signal is ignored at first, and ends it at once after REPEATED seconds: its
    children end by themselves, and its run is listed as interrupted.
    """
    first = min(signals.values(), default=None)
    signals.setdefault(number, time.monotonic())
    if first is None and held[0]:
        signal.signal(signal.SIGALRM, end_hold)
        signal.setitimer(signal.ITIMER_REAL, HOLD_SECONDS)
        return
    if first is None:
        raise KeyboardInterrupt
    if time.monotonic() - first > REPEATED:
        exit_at_once(number, frame)


def restore_handlers() -> None:
    """Install the handlers again, if this process was ended by one of them. Lightning replaces that of SIGINT."""
    if signals:
        raise_on_signals()


def is_interruption(error: BaseException) -> bool:
    """Return whether a training was ended by a signal.

    The error may be any other: ``torch.save``, for example, turns a KeyboardInterrupt during a write into a
    RuntimeError. Lightning turns it into SystemExit.
    """
    return bool(signals) or isinstance(error, KeyboardInterrupt | SystemExit)


def exit_after(main: Callable[[], None]) -> None:
    """Call ``main`` and end the process at once, with its exit status. An error of ``main`` ends the process normally.

    Python would free every object in memory, which takes two seconds after torch and Lightning are imported; the system
    frees the memory at once. Registered exit functions are called, except in a forked child, where they belong to the
    parent. If other threads run, Python ends the process normally.
    """
    status = 0
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int | None):  # a text that Python prints
            raise
        status = end.code or 0
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.current_thread()):
        sys.exit(status)  # threads of a launcher, for example: Python ends them in the right way
    if os.getpid() == STARTED:
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader of the stream is gone
            stream.flush()
    os._exit(status)
