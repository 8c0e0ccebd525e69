"""A run: its folder, the lock that protects it during training, and its record."""

import fcntl
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from segpipe.errors import UserError, printable
from segpipe.runs.identity_keys import DATA_KEYS, TEMPLATE_KEYS
from segpipe.runs.storage import inside, open_regular, partial_files, write_json

if TYPE_CHECKING:
    from segpipe.runs.records import Status

LOCAL_KEYS = (*DATA_KEYS, "logger")  # of this machine: a command gives them again
OF_A_START = ("hydra.", "resume=", "run_dir=", "sweep.")  # overrides of how and where a run is started
PLAIN = re.compile(r"[\w./:@%+-]+", re.ASCII)  # a value that neither Hydra nor a shell takes for anything else
LOCK = ".lock"  # file in a run's folder
SHELL_WORD = re.compile(r"""(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^ \t\r\n\\'"])+""")  # with its quotation marks
SHARED = (".zip", ".safetensors")  # suffixes of files that hold a run, see engine.shared


def display_path(path: Path) -> str:
    """Return a path as a user would type it: relative to the working folder if it is inside."""
    return printable(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


PYTHON = display_path(Path(sys.executable)) if ".venv" in sys.executable else "python"  # make does not activate it


def quote_override(value: object) -> str:
    """Quote a value for Hydra's grammar. Backslashes have a meaning only before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), str(value))
    return f"'{escaped}'"


def quote_template(word: str) -> str:
    """Return a word of the command line, quoted for Hydra's grammar if it is a template of paths.

    The shell removes the quotes of ``data.dataset.images='{split}/img/*.tif'``, and Hydra would read a dict.
    """
    key, equals, value = word.partition("=")
    is_template = key.lstrip("+") in TEMPLATE_KEYS and re.search(r"\{(split|name|class)\}", value)
    return f"{key}={quote_override(value)}" if equals and is_template and value[:1] not in "'\"[" else word


def shell_word(word: object) -> str:
    """Return a word as a user types it in a shell. One with single quotes stands in double quotes."""
    text = str(word)
    if "'" not in text or re.search("[$`!]", text):  # which have a meaning in double quotes
        return shlex.quote(text)
    return '"' + re.sub(r'["\\]', r"\\\g<0>", text) + '"'


def shell_line(words: Iterable[object]) -> str:
    """Return the words of a command as a user types them in a shell."""
    return " ".join(map(shell_word, words))


def shell_words(line: str) -> list[str]:
    """Return the words of a line as a shell splits it. ``#`` at the start of a word begins a comment.

    Raises ValueError where a quotation mark is not closed.
    """
    comment = next((word.start() for word in SHELL_WORD.finditer(line) if word[0].startswith("#")), None)
    return shlex.split(line[:comment])  # shlex itself begins a comment at any #


def typed(key: str, value: object) -> str:
    """Return ``key=value`` as a user has to type it: quoted for Hydra's grammar and for the shell where necessary."""
    text = display_path(value) if isinstance(value, Path) else printable(value)
    return shell_word(f"{key}={text if PLAIN.fullmatch(text) else quote_override(text)}")


def typed_path(path: Path) -> str:
    """Return a path as a user has to type it in a shell."""
    return shell_word(display_path(path))


def repair_hint(folder: Path) -> str:
    """Return the advice on how to repair a damaged run."""
    return f"To repair it, run its first command again with resume=auto {typed('hydra.run.dir', folder)}."


def resume_command(run: "Run", *, trust: Iterable[str] = ()) -> str:
    """Return the command that resumes a run. What is not read from a stored configuration is given again.

    trust: the user's own packages that the run imports. A folder of data that does not exist, such as a relative one
    where the run was started from another folder, is left out.
    """
    local = [override for override in run.cell_overrides if override.lstrip("+~").startswith(LOCAL_KEYS)]
    local = [one for one in local if "logger" in one or Path(one.partition("=")[2].strip("'\"")).exists()]
    words = [f"{PYTHON} -m segpipe.train {typed('resume', run.folder)}", *map(shell_word, local)]
    packages = sorted(trust)
    if packages:
        words.append(shell_word(f"trust={packages[0] if len(packages) == 1 else '[' + ','.join(packages) + ']'}"))
    return " ".join(words)


@contextmanager
def file_lock(folder: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Context manager that locks a folder against other processes. The system releases the lock when this one ends.

    busy: called before waiting for another process; it may raise an error instead. On a file system without locks
    there is no protection and no waiting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_lock(folder) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def open_lock(folder: Path) -> IO[bytes]:
    """Open the lock file of a folder; create it if it does not exist. Raises UserError where it is a link."""
    return open_regular(inside(folder, LOCK), flags=os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)


def remove_if_empty(folder: Path, *, beside: frozenset[str] = frozenset({LOCK})) -> None:
    """Remove a folder if it has no files except ``beside``, and no other process trains in it.

    Hydra makes such a folder for an invalid training, or for one that is resumed in another folder.
    """
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= beside and not Run(folder).is_running:
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


class Run:
    """The folder of a run and its record, ``run.json``. The record is empty where the file does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read()

    def read(self) -> None:
        """Read the record from the disk."""
        from segpipe.runs.records import RunRecord, read_record  # imported here: pydantic takes time to import

        self.record: dict[str, Any] = read_record(self.record_path, RunRecord)
        self.started = time.time()
        self.previous_seconds: float = self.record.get("wall_time_s", 0.0)  # seconds of earlier sessions

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Open an existing run. Raises UserError where the folder is not a run."""
        path = Path(folder)
        run = cls(path) if path.is_dir() else None
        if run is None or not run.config.is_file():
            hint = "no config.yaml in it" if run else "a file" if path.exists() else "no such folder"
            advice = "Give the folder that the training printed at its end, for example outputs/runs/NAME."
            if path.is_file() and path.suffix.lower() in SHARED:
                advice = f"To write the folder of a shared run: {PYTHON} -m segpipe.archive --restore {folder} FOLDER"
            raise UserError(f"{folder}: not a run ({hint}). {advice}")
        return run

    @property
    def config(self) -> Path:
        """File of the resolved configuration."""
        return inside(self.folder, "config.yaml")

    @property
    def record_path(self) -> Path:
        """File of the record: status, seed, versions, times."""
        return inside(self.folder, "run.json")

    @property
    def history(self) -> Path:
        """CSV file with one line per epoch."""
        return inside(self.folder, "history.csv")

    @property
    def metrics(self) -> Path:
        """File with the scores of every split, and the cost."""
        return inside(self.folder, "metrics.json")

    @property
    def pictures(self) -> Path:
        """Folder of the images of predictions."""
        return inside(self.folder, "pictures")

    @property
    def examples(self) -> Path:
        """Folder of a few example images, the same for every run: image, ground truth, prediction."""
        return inside(self.folder, "pictures/examples")

    @property
    def inspection(self) -> Path:
        """The page that segpipe.inspect writes for a single run."""
        return inside(self.folder, "inspect/inspect.html")

    def confusion(self, split: str) -> Path:
        """File with the confusion matrix of every image of a split."""
        return inside(self.folder, f"confusion/{split}.npz")

    def boundaries(self, split: str) -> Path:
        """File with the boundary and object counts of every image of a split."""
        return inside(self.folder, f"boundaries/{split}.npz")

    def checkpoint(self, name: Literal["best", "last"]) -> Path:
        """File of a checkpoint: weights and the state of the training."""
        return inside(self.folder, f"checkpoints/{name}.ckpt")

    @property
    def cell_overrides(self) -> list[str]:
        """Overrides of the record that say what the run is; those of how it was started are left out."""
        given = [str(override) for override in self.record.get("overrides") or []]
        return [override for override in given if not override.lstrip("+~").startswith(OF_A_START)]

    def train_command(self, overrides: Iterable[str], *, python: str = PYTHON) -> str:
        """Return a command that trains with other overrides, and finds the configuration files that this run had."""
        options = [str(option) for option in self.record.get("options") or []]
        return f"{python} -m segpipe.train {shell_line([*options, *overrides])}"

    @property
    def unfinished(self) -> str:
        """A note for what is made of a run whose training has not finished; else an empty text."""
        status = self.record.get("status", "without a record")
        return "" if status == "finished" else f"Note: the run is {status}: its best checkpoint so far is taken."

    def best_checkpoint(self) -> Path:
        """Return the checkpoint for predictions. Raises UserError where it does not exist."""
        if not self.checkpoint("best").exists():  # what is there, but no file, is damaged
            status = self.record.get("status", "without a record")
            if status == "finished":
                again = self.train_command([*self.cell_overrides, "hydra.mode=RUN"], python="python")
                raise UserError(
                    f"{self.folder}: the weights were not kept (sweep.keep=none, or a copy without checkpoints). To "
                    f"get them, train it again: {again}"
                )
            raise UserError(
                f"{self.folder}: no checkpoints/best.ckpt (the run is {status}). Finish its training first: "
                f"{resume_command(self)}"
            )
        return self.checkpoint("best")

    @contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Context manager that locks the run for this process.

        wait: wait until another process releases the run. If False, raises UserError where another process uses it.
        """

        def busy() -> None:
            holder = f"{self.folder}: a process ({self.record.get('pid', 'another')}) is still training this run."
            if not wait:
                raise UserError(f"{holder} Wait until it ends, or stop it.")
            print(f"{holder} Waiting until it ends.", flush=True)

        with file_lock(self.folder, busy):
            self.read()  # another process may have written the record meanwhile
            self.remove_partial_files()
            yield

    def remove_partial_files(self) -> None:
        """Remove the incomplete files of a process that was killed."""
        for folder in (self.folder, self.checkpoint("last").parent):
            for path in partial_files(folder):
                path.unlink()

    @property
    def is_running(self) -> bool:
        """Whether a process is training this run."""
        with suppress(FileNotFoundError), open_regular(inside(self.folder, LOCK)) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                pass
        return False

    def reset(self) -> None:
        """Start with an empty record."""
        self.record, self.previous_seconds = {}, 0.0

    def update(self, **entries: Any) -> None:
        """Add entries to the record and write it to the disk."""
        self.record |= entries
        self.record["wall_time_s"] = round(self.previous_seconds + time.time() - self.started, 1)
        write_json(self.record_path, self.record)

    def finish(self, status: "Status", error: str) -> None:
        """Write how the run ended. If the disk is full, a line is printed and no error is raised.

        Without this entry the run counts as interrupted, because no process is running.
        """
        try:
            self.update(status=status, error=printable(error))
        except OSError as full:
            print(f"{display_path(self.record_path)}: the status could not be written ({full}).", file=sys.stderr)
