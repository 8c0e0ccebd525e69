"""Fast exit of the process of a training."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

STARTED = os.getpid()  # of the process that imported this module; a forked child has another


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
