"""Commands as a person types them, each in a process of its own: forked from one that has segpipe imported, or cold."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path


class Forker:
    """A warmed Python (``forker.py``) and the processes forked from it."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.folder = tempfile.TemporaryDirectory(prefix="segpipe-forker-")
        self.statuses, self.number, self.pending = {}, 0, b""
        atexit.register(self.close)

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()

    def start(self, words, *, cwd, environment, output=None, errors=None):
        """A process that does what ``python WORDS`` does. output, errors: files that it prints to."""
        self.number += 1
        output = output or Path(self.folder.name) / f"{self.number}.out"
        errors = errors or Path(self.folder.name) / f"{self.number}.err"
        request = {
            "words": [str(word) for word in words],
            "cwd": str(cwd),
            "environment": dict(environment),
            "output": str(output),
            "errors": str(errors),
        }
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        while "started" not in (answer := self.answer(300) or {}):  # the first one waits for the imports
            assert answer, "the forking process has not answered for 300 seconds"
            self.statuses[answer["ended"]] = answer["status"]
        return Forked(self, answer["started"], Path(output), Path(errors))

    def answer(self, seconds):
        """The next line; None where none comes in time."""
        until = time.monotonic() + seconds
        stream = self.process.stdout.fileno()
        while b"\n" not in self.pending:
            if not select.select([stream], [], [], max(until - time.monotonic(), 0))[0]:
                return None
            read = os.read(stream, 65536)
            assert read, "the forking process has ended"
            self.pending += read
        line, _, self.pending = self.pending.partition(b"\n")
        return json.loads(line)


class Forked:
    """A forked process; Popen's names."""

    def __init__(self, forker, pid, output, errors):
        self.forker, self.pid, self.output, self.errors = forker, pid, output, errors
        self.returncode = None

    def wait(self, timeout):
        """The exit status, negative for a signal; TimeoutExpired if it still runs after ``timeout`` seconds."""
        until = time.monotonic() + timeout
        while self.returncode is None:
            self.returncode = self.forker.statuses.pop(self.pid, None)
            if self.returncode is None:
                answer = self.forker.answer(until - time.monotonic())
                if answer is None:
                    raise subprocess.TimeoutExpired(str(self.pid), timeout)
                self.forker.statuses[answer["ended"]] = answer["status"]
        return self.returncode

    def poll(self):
        """The exit status; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def kill(self):
        """End it and its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


@contextmanager
def time_limit(seconds):
    """Raise TimeoutError in this process where what may wait for ever has not ended."""

    def expired(number, frame):
        raise TimeoutError(f"not ended after {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@cache
def forker():
    """The one of this process, started when first asked for."""
    return Forker()


def without_wandb():
    """The environment, less what is meant for W&B."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}


def python(words, *, cwd, environment=None, cold=False, timeout=300):
    """Run ``python WORDS``; what subprocess.run would return. cold: in a new interpreter."""
    environment = without_wandb() if environment is None else environment
    words = [str(word) for word in words]
    if cold:
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, capture_output=True, text=True, env=environment, timeout=timeout
        )
    forked = forker().start(words, cwd=cwd, environment=environment)
    try:
        forked.wait(timeout)
    except subprocess.TimeoutExpired:
        forked.kill()
        raise
    return subprocess.CompletedProcess(words, forked.returncode, forked.output.read_text(), forked.errors.read_text())


def run(*arguments, cwd, status=0, cold=False):
    """Run ``python -m ARGUMENTS``, which has to end with a status and without a traceback; what it printed."""
    done = python(["-m", *arguments], cwd=cwd, cold=cold)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr
