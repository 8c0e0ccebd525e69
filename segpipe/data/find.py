"""Find image files in folders, and pair images with masks."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from segpipe.errors import UserError
from segpipe.runs.storage import kind_of

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".npy", ".jp2"}


STRAY = {  # folders of operating systems and network drives; they hold previews and deleted files
    "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found",
}  # fmt: skip


def is_stray(name: str) -> bool:
    """Return whether a file or folder is hidden or of the operating system: ``._x.png``, ``__MACOSX``."""
    return name.startswith(".") or name in STRAY


def same_letters(name: str) -> str:
    """Return the form of a name by which an image and its mask are paired.

    macOS writes an accent as a character of its own (NFD), other systems write it as a part of the letter (NFC). Both
    look the same.
    """
    return unicodedata.normalize("NFC", name)


def require_listed(paths: list[Path], *, source: str | Path, advice: str) -> list[Path]:
    """Return the same paths. Raises UserError, with ``advice``, if files are missing that ``source`` lists."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]}: no such file, but {source} lists it ({len(missing)} of {len(paths)} are missing). {advice}"
        )
    return paths


def pair(image_folder: Path, mask_folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images and masks of two folders, paired by stem and sorted. Raises UserError for a file alone."""
    images, masks = images_by_stem(image_folder), images_by_stem(mask_folder)
    if lonely := sorted(images.keys() ^ masks.keys()):
        path, other = (images[lonely[0]], mask_folder) if lonely[0] in images else (masks[lonely[0]], image_folder)
        raise UserError(
            f"{path}: no file of the same stem in {other} ({len(lonely)} of {len(images | masks)} stems have no "
            f"partner). Add the missing file, or remove this one."
        )
    stems = sorted(images)
    return [images[stem] for stem in stems], [masks[stem] for stem in stems]


def images_by_stem(folder: Path) -> dict[str, Path]:
    """Return the paths of all images in a folder by stem. Raises UserError if there are none."""
    if not folder.is_dir():
        parent = folder.parent
        present = ", ".join(sorted(path.name for path in parent.iterdir())[:8]) if parent.is_dir() else "no such folder"
        raise UserError(
            f"{folder}: there is no such folder (in {parent}: {present or 'nothing'}). Give the folder of the data set "
            f"as data.root=FOLDER, or its parent folder in the environment variable SEGPIPE_DATA."
        )
    paths = [path for path in sorted(folder.iterdir()) if not is_stray(path.name)]
    files = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise UserError(f"{folder}: contains no image ({', '.join(sorted(IMAGE_SUFFIXES))}). Check data.root.")
    by_stem: dict[str, Path] = {}
    for path in files:
        stem = same_letters(path.stem)
        if stem in by_stem:
            raise UserError(f"{path}: has the same stem as {by_stem[stem].name}. Keep only one of the two.")
        by_stem[stem] = path
    return by_stem


def walk(
    folder: Path, problems: list[str], *, without: Path | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder at and below ``folder``: its path, the parts of its path below ``folder``, and its entries.

    Links are followed; a folder that is reached twice, as in a loop of links, is searched once and added to
    ``problems``, as are folders that cannot be listed. Stray files and folders are left out. without: a folder that is
    not searched.
    """
    skipped = identity(without) if without else None
    searched: dict[tuple[int, int] | None, str] = {identity(folder): str(folder)}

    def is_new(path: str) -> bool:
        same = identity(path)
        if same is None or same == skipped:
            return False
        first = searched.setdefault(same, path)
        if first != path:
            problems.append(f"{path}: the same folder as {first}, by a link. Remove one of the two.")
        return first == path

    walked = os.walk(folder, followlinks=True, onerror=lambda error: problems.append(unlistable(error)))
    for parent, folders, files in walked:
        folders[:] = [name for name in sorted(folders) if not is_stray(name)]
        yield parent, list(Path(parent).relative_to(folder).parts), [*folders, *(n for n in files if not is_stray(n))]
        folders[:] = [name for name in folders if is_new(f"{parent}{os.sep}{name}")]


def images_below(folder: Path, suffixes: set[str], *, without: Path | None = None) -> tuple[dict[str, Path], list[str]]:
    """Return the path of each image in and below a folder by name, and problems. ``walk`` says which folders.

    The name is the path below the folder, without suffix. Problems are broken links, pipes and devices, equal names,
    and those of ``walk``. It uses strings instead of Path objects, which is several times faster for many files.
    """
    stems: list[tuple[list[str], str, str]] = []  # sort key; name; path
    problems: list[str] = []
    for parent, parts, names in walk(folder, problems, without=without):
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes:
                stems.append(([*parts, name], "/".join([*parts, stem]), f"{parent}{os.sep}{name}"))
    by_name: dict[str, Path] = {}
    for _, name, path in sorted(stems):
        if not os.path.isfile(path):
            problems.append(f"{path}: {kind_of(path)}. Replace it by the file, or remove it.")
        elif name in by_name:
            problems.append(f"{path}: has the same name as {by_name[name].name}. Keep only one of the two.")
        else:
            by_name[name] = Path(path)
    return by_name, problems


def unlistable(error: OSError) -> str:
    """Return the problem of a folder that cannot be listed."""
    return f"{error.filename}: the folder cannot be listed ({error.strerror}). Allow reading it, or remove it."


def identity(path: str | Path) -> tuple[int, int] | None:
    """Return what tells a file or folder from all others, whatever links lead to it; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
