"""How the process of a training ends: at once, when all is done."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

STARTED = os.getpid()  # of the process that loaded this; a copy of it has another


def exit_after(main: Callable[[], None]) -> None:
    """Call ``main`` and end the process with the status it asks for; an error that it raises ends it as ever.

    Python would take down what is in memory object by object, two seconds' work once torch and Lightning are loaded,
    for a system that takes it all back in one go. What was registered to be done at the exit is done, except in a
    process that was forked: there it is the parent's. Where threads are at work, Python ends the process as ever.
    """
    status = 0
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int | None):  # a text, which Python prints
            raise
        status = end.code or 0
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.current_thread()):
        sys.exit(status)  # a launcher's, say: Python knows how they are told to end
    if os.getpid() == STARTED:
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)
