"""Files of run and sweep folders: paths without links, atomic writing, reading with limits.

A run or sweep folder may come from a stranger. Its paths are made by ``inside``, its files are read by ``read_bytes``
and the functions that call it, and written by ``atomic_write``.
"""

import csv
import errno
import io
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import yaml

from segpipe.errors import NOT_PRINTABLE, UserError, printable

MAX_BYTES = 64 * 2**20  # of a text file
MAX_YAML_BYTES = 2**18
MAX_DEPTH = 40  # nested lists and dicts in a file
PART = ".part"  # suffix of an incomplete file
SET_ASIDE = ".damaged"  # suffix of a damaged file that is kept
UMASK = os.umask(0)
os.umask(UMASK)  # the mask can be read only by setting it


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file or folder inside ``folder``. name: a relative path, with ``/`` between its components.

    ``folder`` itself may be a link or lie behind links: the user named it. Raises UserError where ``name`` leaves the
    folder, and where a component below the folder is a link: a folder from a stranger could lead anywhere.
    """
    if not name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise UserError(f"{folder}: '{name}' is not a path inside this folder. Allowed are names without '..'.")
    path = folder
    for part in PurePosixPath(name).parts:
        path = path / part
        if path.is_symlink():
            raise UserError(f"{path}: this is a link. Links inside a run or a sweep are not followed: copy the target.")
    return path


def is_component(name: object) -> bool:
    """Return whether a value is the name of a file or folder: one component of a path, without control characters."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and len(name.encode(errors="replace")) <= 255
        and "/" not in name
        and name.isprintable()
    )


def as_path(given: object, what: str) -> Path:
    """Return a path that a caller gave. what: the name of the argument, for the message.

    Raises UserError for what is no path, for an empty one, and for one that the system cannot look up.
    """
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        shown = "an empty text" if path == "" else f"{printable(repr(given))[:80]}, of the type {type(given).__name__}"
        raise UserError(f"{what}: this is {shown}. Give a path: a text that is not empty, or a pathlib.Path.")
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # a null character is a ValueError
        reason = getattr(error, "strerror", None) or error
        shown = path if len(path) <= 200 else f"{path[:200]}..."
        raise UserError(f"{shown}: this path cannot be looked up ({reason}). Give another one.") from error
    return Path(path)


@contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Context manager that names ``path`` in an OSError, in place of a temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def atomic_write(path: Path, write: Callable[[Path], None], *, sync: bool = True) -> None:
    """Let ``write`` write a temporary file next to ``path``, then rename it to ``path`` in one step.

    A reader sees the old file or the new one, never a part. Where writing fails, the old file stays. The temporary file
    is new and its name cannot be predicted, so nothing is written through a link. sync: force the content to the disk
    before the renaming, so that this holds after a loss of power too; it takes longer than writing a small file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with of_file(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=PART, dir=path.parent)
    temporary = Path(name)
    try:
        os.fchmod(descriptor, 0o666 & ~UMASK)
        os.close(descriptor)
        write(temporary)
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        with of_file(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_can_write(folder: Path, given: str) -> None:
    """Raise UserError where a folder cannot be made or written to, before work whose results would be lost.

    given: what the user typed, for the message.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not place.is_dir():
        raise UserError(f"{given}: {place} is a file. Give a folder; it is created if it does not exist.")
    try:  # permissions do not tell of read-only places, of other limits, nor of /proc, which takes no files
        os.rmdir(tempfile.mkdtemp(prefix=".segpipe-", suffix=PART, dir=place))
    except OSError as error:
        reason = "it takes no files" if error.errno == errno.ENOENT else error.strerror
        raise UserError(
            f"{given}: {place} cannot be written ({reason}). Change its permissions, or give another folder."
        ) from error


def partial_files(folder: Path) -> Iterator[Path]:
    """Yield the incomplete files that ``atomic_write`` left in a folder when its process was killed."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and entry.name.endswith(PART) and entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def write_text(path: Path, text: str) -> None:
    r"""Write a text file atomically, in UTF-8. Bytes of file names that are not UTF-8 are written as ``\udcff``."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    atomic_write(path, lambda temporary: temporary.write_bytes(content))  # type: ignore[func-returns-value, arg-type]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically. NaN and infinities become null, because JSON does not have them."""
    write_text(path, json.dumps(without_nan(content), indent=2, ensure_ascii=False) + "\n")


def without_nan(content: Any) -> Any:
    """Copy nested dicts and lists with NaN and infinities replaced by None."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def open_regular(path: Path, *, flags: int = os.O_RDONLY, limit: int | None = None) -> BinaryIO:
    """Open a regular file. A named pipe or a device is not opened: reading it might never end.

    flags: of ``os.open``. limit: the largest allowed length in bytes. Raises UserError for what is not a regular file
    or is too large, OSError where the file cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: {kind_of(path)}: this is not a regular file. Give a regular file, or a link to one.")
    if limit is not None and status.st_size > limit:
        os.close(descriptor)
        raise UserError(f"{path}: larger than {limit:,} bytes, the limit for this kind of file. Give a smaller file.")
    mode = "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "r+b"
    return cast(BinaryIO, open(descriptor, mode))


def kind_of(path: str | Path) -> str:
    """Return what a path is that is not a regular file, in words."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a broken link" if os.path.islink(path) else "no such file"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((words for is_kind, words in kinds if is_kind(mode)), "a device") + ", not a file"


def read_bytes(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """Read a regular file of at most ``limit`` bytes. Raises the errors of ``open_regular``."""
    with open_regular(path, limit=limit) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; an empty dict where it does not exist or is damaged.

    NaN and infinities count as damage: JSON does not have them.
    """
    try:
        content = json.loads(read_bytes(path), parse_constant=reject_constant)
        check_plain(content)
    except (FileNotFoundError, ValueError, RecursionError, UserError):
        return {}
    return content if isinstance(content, dict) else {}


def reject_constant(name: str) -> Any:
    """Raise ValueError for NaN and infinities, which ``json`` accepts."""
    raise ValueError(f"{name} is not JSON")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping of plain data: no aliases, no tags, no dates.

    Raises ValueError with the reason where the content is anything else, OSError and UserError as ``read_bytes``.
    """
    return parse_yaml(read_bytes(path, limit=MAX_YAML_BYTES))


def parse_yaml(file: bytes) -> dict[str, Any]:
    """Return the mapping of a YAML file with this content. Raises ValueError, see ``read_yaml``."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if len(file) > MAX_YAML_BYTES:
        raise ValueError(f"larger than {MAX_YAML_BYTES:,} bytes")
    text = file.decode("utf-8")
    try:
        if "*" in text and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, loader)):
            raise ValueError("aliases are not allowed")
        content = yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError, MemoryError) as error:
        raise ValueError(f"not YAML ({str(error).partition(chr(10))[0]})") from error
    check_plain(content)
    if not isinstance(content, dict):
        raise ValueError("not a mapping")
    return content


def check_plain(content: Any, depth: int = 0) -> None:
    """Raise ValueError for content that is not made of dicts with text keys, lists, texts, numbers, booleans and null.

    It also rejects a nesting deeper than MAX_DEPTH, numbers that are not finite, and control characters.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is not a text")
            check_plain(key, depth + 1)
            check_plain(value, depth + 1)
    elif isinstance(content, list):
        for value in content:
            check_plain(value, depth + 1)
    elif isinstance(content, float) and not math.isfinite(content):
        raise ValueError(f"{content} is not a finite number")
    elif isinstance(content, str):
        if NOT_PRINTABLE.search(content):
            raise ValueError(f"'{printable(content[:60])}' has control characters")
    elif not (content is None or isinstance(content, int | float)):
        raise ValueError(f"a {type(content).__name__} is not allowed")


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the history as a CSV file, atomically: one line per epoch."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))  # an epoch may lack values of other epochs
    table = csv.DictWriter(text, fieldnames=columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the rows that ``write_history`` wrote, unchanged; an empty list where there is no file.

    Raises ValueError where a value is not a number, UserError as ``read_bytes``.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except FileNotFoundError:
        return []
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [{key: number(value) for key, value in row.items() if value and key is not None} for row in rows]


def number(text: str) -> float:
    """Return a number of a CSV file: an int if it is written as one, else a float."""
    return int(text) if text.lstrip("-").isdecimal() else float(text)
