"""A Python with all of segpipe imported, which forks a process for each command that it is asked for.

A request is a line of JSON on standard input: words (what would follow ``python``: ``-m MODULE`` or ``-c CODE``, and
arguments), cwd, environment, and the files that the command prints to. Standard output answers with a line
``{"started": PID}`` for each request, and ``{"ended": PID, "status": N}`` when that process has ended.
"""

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import sys
import threading
import traceback
from pathlib import Path

import segpipe
from segpipe.engine import shutdown

BEFORE = dict(os.environ)


def serve():
    """Fork for each request until standard input ends."""
    children, pending = set(), b""
    while True:
        if select.select([0], [], [], 0.01 if children else None)[0]:
            read = os.read(0, 65536)
            if not read:
                return
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                children.add(start(json.loads(line)))
        for pid in list(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.remove(pid)
                answer(ended=pid, status=os.waitstatus_to_exitcode(status))


def answer(**content):
    """One line; short enough to be written at once."""
    os.write(1, json.dumps(content).encode() + b"\n")


def start(request):
    """Fork a process for a request; its number."""
    pid = os.fork()
    if pid == 0:
        become(request)
    answer(started=pid)
    return pid


def become(request):
    """Do in this process what a new interpreter would do, and never return."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor, name in enumerate((os.devnull, request["output"], request["errors"])):
            flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
            opened = os.open(name, flags)
            os.dup2(opened, descriptor)
            os.close(opened)
        imported = {name: value for name, value in os.environ.items() if BEFORE.get(name) != value}
        os.environ.clear()
        os.environ.update(imported | request["environment"])  # what modules set when they are imported
        os.chdir(request["cwd"])
        sys.path[0] = request["cwd"]
        shutdown.STARTED = os.getpid()  # what is registered for the exit is done
        (kind, given), arguments = request["words"][:2], request["words"][2:]
        sys.argv = [kind, *arguments]
        sys.modules.pop(given, None)
        if kind == "-m":
            runpy.run_module(given, run_name="__main__", alter_sys=True)
        else:
            exec(compile(given, "<string>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    importlib.import_module("segpipe.train")  # first: its imports are in the order that is fast
    for path in Path(segpipe.__path__[0]).glob("[a-z]*.py"):
        importlib.import_module(f"segpipe.{path.stem}")
    serve()
    os._exit(0)  # what is registered for the exit takes seconds
