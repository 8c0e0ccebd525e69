"""Paths that the user's options and the files of a data set name: templates, and names in lists and annotations."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segpipe.data.dataset import Split
from segpipe.data.find import is_stray, require_listed, walk
from segpipe.data.folder.words import SPLIT_WORDS, split_word
from segpipe.errors import UserError

PLACES = ("{split}", "{name}", "{class}")
SPECIAL = re.compile(r"(\{[^{}]*\}|\*\*|\*|\?)")
ANY_SPLIT = "|".join(sorted((word for words in SPLIT_WORDS.values() for word in words), key=len, reverse=True))


class Found(NamedTuple):
    """A path that a template matches: the split, name and class in it (None where it has none), and texts of ``*``."""

    path: Path
    split: Split | None
    name: str | None
    label: str | None
    stars: tuple[str, ...]


class Template:
    """A pattern of paths: ``{split}/img/*.tif``.

    ``{split}`` is any spelling of train, val or test; ``{name}`` and ``{class}`` any text; ``*`` any text within a
    folder's or file's name, ``?`` one character, ``**`` any number of folders. key: the option, for messages. root: the
    folder that a relative pattern refers to; None: the working directory. suffixes: those of files, where the pattern
    has none or ``.*``. Raises UserError for other words in braces, and where a relative pattern leaves ``root``.
    """

    def __init__(self, text: str, *, key: str, root: Path | None, suffixes: set[str]) -> None:
        self.text, self.key, self.root, self.suffixes = text, key, root, suffixes
        expanded = os.path.expanduser(text)
        wrong = [part for part in SPECIAL.findall(text) if part.startswith("{") and part not in PLACES]
        if wrong or text.count("{") != text.count("}"):
            raise UserError(
                f"{key}={text}: {wrong[0] if wrong else 'a single brace'} is not known; allowed are "
                f"{', '.join(PLACES)}, * and ?."
            )
        absolute = os.path.isabs(expanded)
        parts = [part for part in expanded.split("/") if part not in ("", ".")] or ["*"]
        if root is not None and not absolute and ".." in parts:
            raise UserError(
                f"{key}={text}: leaves data.root={root} by '..'. Give a path below it, or an absolute path."
            )
        start = next((index for index, part in enumerate(parts) if SPECIAL.search(part)), len(parts) - 1)
        base = Path("/") if absolute else root or Path()
        self.folder, self.parts = base.joinpath(*parts[:start]), parts[start:]

    def find(self) -> list[Found]:
        """Return the files that match, sorted. Raises UserError if the folder before the first place is missing."""
        if not self.folder.is_dir():
            raise UserError(f"{self.key}={self.text}: {self.folder}: there is no such folder.{present(self.folder)}")
        return [found for found in self.expand(self.folder, 0, {}) if found.path.is_file()]

    def folders(self) -> list[Found]:
        """Return the folders that match, sorted."""
        found = self.expand(self.folder, 0, {}, files=False) if self.parts[-1] != "**" else ()
        return [match for match in found if match.path.is_dir()]

    def expand(self, folder: Path, depth: int, texts: Mapping[str, str], *, files: bool = True) -> Iterator[Found]:
        """Yield the paths below a folder that match the parts of the pattern from ``depth`` on.

        texts: of the places in the earlier parts; a place that occurs again has the same text.
        """
        part, last = self.parts[depth], depth + 1 == len(self.parts)
        if part == "**":
            for parent, _, _ in walk(folder, []) if not last else ():
                yield from self.expand(Path(parent), depth + 1, texts, files=files)
            return
        stem, suffix = os.path.splitext(part)
        any_suffix = files and last and (suffix in ("", ".*") or SPECIAL.search(suffix) is not None)
        pattern = re.compile(regex(stem if any_suffix and suffix in ("", ".*") else part, depth), re.DOTALL)
        names = sorted(entry for entry in os.listdir(folder) if not is_stray(entry)) if folder.is_dir() else []
        for entry in names:
            entry_stem, entry_suffix = os.path.splitext(entry)
            if any_suffix and entry_suffix.lower() not in self.suffixes:
                continue
            matched = pattern.fullmatch(entry_stem if any_suffix and suffix in ("", ".*") else entry)
            if matched is None:
                continue
            new = {key: text for key, text in matched.groupdict().items() if text is not None}
            if any(texts.get(key, text) != text for key, text in new.items()):
                continue
            both = {**texts, **new}
            if last:
                stars = tuple(text for key, text in both.items() if key.startswith("star"))
                split = split_word(both["split"].lower()) if "split" in both else None
                yield Found(folder / entry, split, both.get("name"), both.get("class"), stars)
            else:
                yield from self.expand(folder / entry, depth + 1, both, files=files)


def regex(part: str, depth: int) -> str:
    """Return the regular expression of a part of a pattern, with a group for each place and star."""
    text, groups = "", set()
    for index, piece in enumerate(SPECIAL.split(part)):
        group = piece[1:-1] if piece in PLACES else f"star{depth}_{index}" if piece == "*" else None
        if group is None:
            text += "." if piece == "?" else re.escape(piece)
        elif group in groups:
            text += f"(?P={group})"
        else:
            inner = f"(?i:{ANY_SPLIT})" if group == "split" else ".*" if piece == "*" else ".+"
            text += f"(?P<{group}>{inner})"
            groups.add(group)
    return text


def is_template(text: str) -> bool:
    """Return whether an option is a pattern of paths, not the path of a folder."""
    return SPECIAL.search(text) is not None


def present(folder: Path) -> str:
    """Return a sentence with the content of the nearest parent of a missing folder."""
    parent = next((parent for parent in folder.parents if parent.is_dir()), Path())
    names = sorted(entry for entry in os.listdir(parent) if not is_stray(entry))
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f" In {parent}: {shown or 'nothing'}."


def below(folder: Path, name: str, source: str | Path) -> Path:
    """Return the path of a file that a list or an annotation file names, relative to a folder.

    Raises UserError for an absolute path, for ``..``, and for a link that leads out of the folder: the file may come
    from a stranger. source: the file that names it, for the message.
    """
    text = name.replace("\\", "/").removeprefix("./")
    parts = text.split("/")
    if not text or "\0" in text or re.match(r"/|[A-Za-z]:", text) or any(part in ("", ".", "..") for part in parts):
        raise UserError(
            f"{source}: '{name[:200]}' is not a path below {folder}. Write paths relative to this folder, without '..'."
        )
    path = folder / text
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{source}: '{name[:200]}' is a link that leads out of {folder}. Copy the file there.")
    return path


def listed(folder: Path, names: Sequence[str], source: str | Path) -> list[Path]:
    """Return the paths of files that a list or an annotation file names. Raises UserError if one is missing."""
    paths = [below(folder, name, source) for name in names]
    return require_listed(paths, source=source, advice="Add the files, or remove them from the list.")
