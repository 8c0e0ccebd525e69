"""A sweep in one file: what a report reads of its runs. An archive may come from a stranger.

The file is a zip archive with the files of the sweep's folder under their own names, and MANIFEST. The same folder
gives the same bytes: members are sorted and have no dates. What belongs to a machine is left out: host, process, and
the folders of paths.
"""

import atexit
import errno
import json
import re
import shlex
import shutil
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import Field, ValidationError

from segpipe.errors import UserError, printable
from segpipe.runs import cells
from segpipe.runs.records import FolderName, Model
from segpipe.runs.run import LOCAL_KEYS, OF_A_START, PYTHON, SHELL_WORD, display_path, shell_word
from segpipe.runs.storage import (
    MAX_BYTES,
    MAX_YAML_BYTES,
    atomic_write,
    check_plain,
    inside,
    is_component,
    open_regular,
    read_bytes,
)

SUFFIX = ".zip"
MANIFEST = "archive.json"
OF_A_SWEEP = (cells.FILE, "tuned.cells")
OF_A_RUN = (
    "config.yaml", "run.json", "metrics.json", "history.csv", "confusion/val.npz", "confusion/test.npz",
    "boundaries/val.npz", "boundaries/test.npz",
)  # fmt: skip
EXAMPLES = "pictures/examples"
IMAGES = (".png", ".jpg")
COMPRESSED = (*IMAGES, ".npz", ".safetensors")  # these are stored as they are
MAX_ARCHIVE = 2**32  # bytes of the file
LIMITS = {  # bytes of a member; else MAX_BYTES
    ".yaml": MAX_YAML_BYTES, ".npz": 2**30, ".png": 2**24, ".jpg": 2**24, ".safetensors": MAX_ARCHIVE,
}  # fmt: skip
MAX_DIRECTORY = 2**25  # bytes of the list of members: about 300,000 of them
MAX_UNPACKED = (2**26, 100)  # bytes of all members together: the first, plus the second times the bytes of the file
MACHINE_ENTRIES = ("host", "pid")  # of run.json
MACHINE_KEYS = (  # keys of config.yaml whose values are paths
    "run_dir", "dirpath", "root", "images", "masks", "lists", "resume", "warm_start", "default_root_dir",
)  # fmt: skip
PATH_LINE = re.compile(  # YAML breaks a long path at a space, and indents the rest
    b"^(?P<indent> *)(?P<key>(?:"
    + "|".join(MACHINE_KEYS).encode()
    + rb"): )(?P<quote>['\"]?)/(?P<path>.*(?:\n(?P=indent) +.*)*)$",
    re.MULTILINE,
)
MACHINE_WORDS = (*LOCAL_KEYS, *OF_A_START, "--config", "/")  # beginnings of words of a command
PATH_WORD = re.compile(r"^([^=]*=['\"]?|)/.*/(?=[^/'\"])")
PATHS_IN_LIST = re.compile(r"((?:[\[,] *['\"]?)(?:file://)?)/[^,'\"\]]*/(?=[^/,'\"\]])")


class Manifest(Model):
    """``archive.json``. name: of the sweep. folders: all of its subfolders, also those that have no file in it."""

    format: Literal["segpipe sweep"] = "segpipe sweep"
    version: Literal[1] = 1
    name: FolderName
    folders: list[FolderName] = Field(max_length=10**6)


def write(folder: Path, out: Path, *, examples: bool = True) -> int:
    """Write the archive of a sweep's folder, or of any folder of runs. Return the number of runs in it.

    examples: include the example images of the runs. Raises UserError where the folder has no run, and for a link.
    """
    folder = as_folder(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give the folder of a sweep, outputs/sweeps/NAME.")
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and is_shown(path.name))
    members = {name: file for name, file in members_of(folder, folders, examples=examples) if file.is_file()}
    runs = sum(name.endswith("/config.yaml") for name in members)
    if not runs:
        raise UserError(f"{folder}: there is no run in it. Give the folder of a sweep, outputs/sweeps/NAME.")
    manifest = Manifest(name=folder.resolve().name, folders=folders).model_dump()

    def write_members(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            add(archive, MANIFEST, json_bytes(manifest))
            for name, file in sorted(members.items()):
                content = read_bytes(file, limit=LIMITS.get(file.suffix, MAX_BYTES))
                add(archive, name, without_machine(name, content))

    atomic_write(out, write_members)
    return runs


def is_shown(name: str) -> bool:
    """Return whether a subfolder may be that of a run."""
    return is_component(name) and not name.startswith(".")


def members_of(folder: Path, folders: list[str], *, examples: bool) -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of each possible member. Raises UserError where one lies behind a link."""
    names = [*OF_A_SWEEP, *(f"{run}/{name}" for run in folders for name in OF_A_RUN)]
    for run in folders if examples else ():
        images = inside(folder, f"{run}/{EXAMPLES}")
        if images.is_dir():
            names += [f"{run}/{EXAMPLES}/{path.name}" for path in images.iterdir() if is_image(path.name)]
    for name in names:
        yield name, inside(folder, name)


def is_image(name: str) -> bool:
    """Return whether a name is that of an example image."""
    return is_component(name) and not name.startswith(".") and name.endswith(IMAGES)


def add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a member without a date, with the permissions of a plain file."""
    entry = zipfile.ZipInfo(name)  # of 1980
    entry.create_system = 3
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(COMPRESSED) else zipfile.ZIP_DEFLATED
    archive.writestr(entry, content, compresslevel=9)


def json_bytes(content: Any) -> bytes:
    """Return JSON as the files of a run have it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def without_machine(name: str, content: bytes) -> bytes:
    """Return the content of a member without what belongs to a machine. A damaged file stays as it is."""
    if name.endswith("config.yaml"):
        return PATH_LINE.sub(last_part, content)
    if name.endswith(".cells"):
        lines = content.decode(errors="surrogateescape").splitlines(keepends=True)
        cleaned = (SHELL_WORD.sub(quoted_without_folder, line) for line in lines)
        return "".join(cleaned).encode(errors="surrogateescape")
    if not name.endswith(("run.json", cells.FILE)):
        return content
    try:
        record = json.loads(content)
        check_plain(record)
        changed = {key: value for key, value in record.items() if name == cells.FILE or key not in MACHINE_ENTRIES}
        for entry in (changed, *changed.get("cells", ())):
            for key in ("overrides", "options"):
                if entry.get(key):
                    entry[key] = [without_folder(override) for override in entry[key]]
    except (ValueError, RecursionError, TypeError, AttributeError):
        return content
    return content if changed == json.loads(content) else json_bytes(changed)


def last_part(line: re.Match[bytes]) -> bytes:
    """Return a line of PATH_LINE with the last part of its path; it is quoted where YAML needs it: ``'*.png'``."""
    indent, key, quote, path = line.groups()
    folder = path.rstrip(b"/'\" ").rpartition(b"/")[0]
    if not folder:
        return bytes(line[0])
    last = path[len(folder) + 1 :]
    plain = quote or re.match(rb"[\w.]|$", last)
    return bytes(indent + key + (quote + last if plain else b"'" + last.replace(b"'", b"''") + b"'"))


def without_folder(word: str) -> str:
    """Return a word of a command that names folders of this machine with the last parts of the paths only."""
    if not word.lstrip("+~").startswith(MACHINE_WORDS):
        return word
    return PATHS_IN_LIST.sub(r"\1", word) if "=[" in word else PATH_WORD.sub(r"\1", word)


def quoted_without_folder(word: re.Match[str]) -> str:
    """Return a word of a file of cells, or of a comment there, as ``without_folder``. It is quoted for a shell."""
    try:
        given = "".join(shlex.split(word[0]))
    except ValueError:  # a comment may end with a backslash
        return word[0]
    cleaned = without_folder(given)
    return word[0] if cleaned == given else shell_word(cleaned)


def as_folder(path: Path) -> Path:
    """Return the folder of a sweep. If ``path`` is an archive, it is unpacked to a temporary folder, once.

    The temporary folder is removed when the process ends. Where there is no such path but PATH.zip, that is read.
    Raises UserError for a file that is no archive, is damaged, or could not be written by ``write``.
    """
    if not path.exists() and path.name:
        beside = path.with_name(path.name + SUFFIX)
        path = beside if beside.is_file() else path
    if not path.is_file():
        return path
    status = path.stat()
    return unpacked(path.resolve(), status.st_mtime_ns, status.st_size)


def shown_path(path: Path) -> Path:
    """Return the path of a sweep as a command shows it: that of an archive without its suffix."""
    stem = path.name.removesuffix(SUFFIX)
    return path.with_name(stem) if stem and stem != path.name else path


@cache
def unpacked(path: Path, changed: int, size: int) -> Path:
    """See ``as_folder``. changed, size: of the file, so that another file is unpacked again."""
    temporary = Path(tempfile.mkdtemp(prefix="segpipe-archive-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    try:
        return unpack(path, temporary)
    except UserError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def unpack(path: Path, target: Path) -> Path:
    """Unpack an archive to a new folder in ``target``, and return the folder. All members are checked before.

    Raises UserError as ``as_folder``, OSError where ``target`` cannot be written.
    """
    try:
        with open_archive(path) as file, zipfile.ZipFile(file) as archive:
            if MANIFEST not in archive.namelist() and "config.yaml" in archive.namelist():
                raise UserError(
                    f"this is one shared run, not a sweep. Write its folder into a folder of runs, and report that: "
                    f"{PYTHON} -m segpipe.archive --restore {display_path(path)} RUNS/NAME"
                )
            entries = checked_members(archive, size=path.stat().st_size)
            manifest = read_manifest(archive)
            folder = target / manifest.name
            for name in manifest.folders:
                inside(folder, name).mkdir(parents=True)
            extract(archive, entries, folder)
            return folder
    except UserError as error:
        raise UserError(f"{display_path(path)}: {error}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{display_path(path)}: this is not an archive of a sweep, or it is damaged ({printable(reason)}). Give a "
            f"file that python -m segpipe.archive has written, or the folder of a sweep."
        ) from error


def extract(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """Write checked members to a new folder. Raises ValueError for one whose length is not that of its entry."""
    for entry in entries:
        place = inside(folder, entry.filename)
        place.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, place.open("xb") as copy:
            shutil.copyfileobj(source, copy)
        if place.stat().st_size != entry.file_size:
            raise ValueError(f"{entry.filename} is not as long as its entry says")


def open_archive(path: Path) -> BinaryIO:
    """Open an archive, where the list of its members has a size that can be read. Raises ValueError, UserError."""
    file = open_regular(path, limit=MAX_ARCHIVE)
    size = file.seek(0, 2)
    file.seek(max(size - 42 - 56, 0))
    tail = file.read()
    end, locator = tail[-22:], tail[-42:-22]
    if len(end) < 22 or end[:4] != b"PK\5\6":
        file.close()
        raise ValueError("its end is not that of a zip archive")
    (length,) = struct.unpack("<L", end[12:16])
    if locator[:4] == b"PK\6\7":  # for more than 65,535 members
        file.seek(struct.unpack("<Q", locator[8:16])[0])
        record = file.read(56)
        length = struct.unpack("<Q", record[40:48])[0] if len(record) == 56 else MAX_DIRECTORY + 1
    if length > MAX_DIRECTORY:
        file.close()
        raise ValueError(f"the list of its members has {length:,} bytes; at most {MAX_DIRECTORY:,} are read")
    file.seek(0)
    return file


def checked_members(
    archive: zipfile.ZipFile, *, size: int, known: Callable[[str], bool] | None = None, what: str = "a sweep"
) -> list[zipfile.ZipInfo]:
    """Return the members but the manifest. Nothing is decompressed. size: of the file, in bytes.

    known: whether a name is that of a member; None: of a sweep. what: the kind of archive, for messages.
    Raises UserError for a member that ``write`` does not write: another name, a link, a folder, a second one of the
    same name, an encrypted one, or one that is too large.
    """
    known = known or may_be_member
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the member {twice[:200]!r} is there twice. Write the archive again.")
    for entry in entries:
        kind = entry.external_attr >> 16
        limit = LIMITS.get(Path(entry.filename).suffix, MAX_BYTES)
        problem = None
        if entry.filename != MANIFEST and not known(entry.filename):
            problem = f"is not a file of {what}"
        elif entry.is_dir() or (stat.S_IFMT(kind) and not stat.S_ISREG(kind)):
            problem = "is not a regular file"
        elif entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = "is encrypted, or compressed in another way than segpipe does"
        elif entry.file_size > limit:
            problem = f"has {entry.file_size:,} bytes; at most {limit:,} are read"
        if problem:
            raise UserError(f"the member {entry.filename[:200]!r} {problem}. Write the archive again.")
    most = MAX_UNPACKED[0] + MAX_UNPACKED[1] * size
    if (total := sum(entry.file_size for entry in entries)) > most:
        raise UserError(f"its members have {total:,} bytes together; at most {most:,} are unpacked from this file.")
    return [entry for entry in entries if entry.filename != MANIFEST]


def may_be_member(name: str) -> bool:
    """Return whether ``write`` may give a member this name."""
    run, _, rest = name.partition("/")
    if not rest:
        return name in OF_A_SWEEP
    folder, _, image = rest.rpartition("/")
    return is_shown(run) and (rest in OF_A_RUN or (folder == EXAMPLES and is_image(image)))


def read_manifest(archive: zipfile.ZipFile) -> Manifest:
    """Return the manifest. Raises ValueError where it is missing, damaged, or of another version."""
    try:
        content = json.loads(archive.read(MANIFEST))
        check_plain(content)
        return Manifest.model_validate(content)
    except (KeyError, RecursionError, ValidationError) as error:
        known = isinstance(error, ValidationError) and isinstance(content, dict) and content.get("version", 1) != 1
        reason = f"its version {content['version']!r} is not known" if known else "it has no archive.json of segpipe"
        raise ValueError(reason) from error
