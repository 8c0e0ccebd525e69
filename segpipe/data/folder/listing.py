"""Layouts in which files list others: VOC's ``ImageSets``, ``train.txt`` with pairs or names, COCO's annotations."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segpipe.data.files import read_text
from segpipe.data.find import IMAGE_SUFFIXES, images_below, walk
from segpipe.data.folder.annotations import Coco, read_coco, read_json, require_coco
from segpipe.data.folder.layout import MASK_SUFFIXES, Files, Folders, Layout, Lookup, Part
from segpipe.data.folder.paths import below, listed
from segpipe.data.folder.words import IMAGE_WORDS, role, split_in, split_word
from segpipe.errors import UserError

LIST_FOLDERS = ("ImageSets/Segmentation", ".", "ImageSets", "imagesets", "splits", "split", "lists", "list")
WHOLE = ("default", "all")  # lists of all images
NO_MASKS = ("captions", "person_keypoints", "panoptic", "image_info")  # starts of the names of other COCO files
ADD = "Add it, or remove the line."
MOST_FILES = 50  # JSON files that are taken for COCO's


def find_lists(root: Path) -> dict[Part, Path]:
    """Return the list of each split, ``train.txt``, in the first folder that has one for train; or that of all."""
    for name in LIST_FOLDERS:
        folder = root / name
        files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
        lists: dict[Part, Path] = {}
        for path in files:
            if (split := split_word(path.stem.lower())) is not None:
                lists.setdefault(split, path)
        whole = next((path for path in files if path.stem.lower() in WHOLE), None)
        if "train" in lists:
            return lists
        if whole is not None:
            return {"all": whole}
    return {}


class Line(NamedTuple):
    """A line of a list: an image, by its name or path, and its mask, if it is given."""

    image: str
    mask: str | None = None


def read_list(path: Path) -> list[Line]:
    """Return the lines of a list, without empty lines and comments. Raises UserError if it is no list of images."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a list of images ({error}).") from error
    found = [divided(line) for line in lines if line and not line.startswith("#")]
    if flags := [line for line in found if line.mask in ("-1", "0", "1")]:
        raise UserError(
            f"{path}: '{flags[0].image} {flags[0].mask}' says whether an image contains a class, not where its "
            f"mask is. Give lists of images, with or without masks."
        )
    if not found:
        raise UserError(f"{path}: an empty list. Write an image in each line, or an image and its mask.")
    return found


def divided(line: str) -> Line:
    """Return the image and the mask of a line, between which are a tab, a comma, a semicolon or a blank."""
    for separator in ("\t", ",", ";"):
        if separator in line:
            image, _, mask = line.partition(separator)
            return Line(image.strip(), mask.strip() or None)
    parts = line.split()
    if len(parts) == 2:
        return Line(*parts)
    middle = re.match(r"(.*\.\w{3,4})\s+(.*\.\w{3,4})$", line)  # names with blanks
    return Line(middle[1], middle[2]) if middle else Line(line)


def read_lists(lists: Mapping[Part, Path], root: Path, folders: Folders | None) -> Layout:
    """Return the files that lists name.

    folders: of the images and masks; None: those near the lists whose names are words for images and masks. Raises
    UserError for a file that is missing, and for a path that leaves the folder.
    """
    lines = {part: read_list(path) for part, path in lists.items()}
    first = next(iter(lists.values()))
    names = [line.image for part in lines.values() for line in part if line.mask is None]
    if names and folders is None:
        folders = folders_of_names(names, [first.parent, *first.parent.parents], root)
        if folders is None:
            raise UserError(
                f"{first}: lists {names[0][:200]}, but no two folders near it have images and masks of this name. Give "
                f"both: data.dataset.images=FOLDER data.dataset.masks=FOLDER data.dataset.lists='{{split}}.txt'."
            )
    finder = Finder(folders, base_of([line for part in lines.values() for line in part], first, root))
    parts: dict[Part, Files] = {}
    for part, content in lines.items():
        images, masks, problems = finder.files(content, lists[part])
        where = folders or Folders(lists[part], lists[part])
        if masks or part != "test":  # competitions list images without masks
            parts[part] = Files(images, masks, where, tuple(problems))
    shown = ", ".join(str(path) for path in lists.values())
    return Layout(parts, (f"the splits are those of {shown}.",))


def base_of(lines: Sequence[Line], path: Path, root: Path) -> Path:
    """Return the folder to which the paths in a list refer: the list's own or one above it that has the first file."""
    if lines[0].image.startswith(("/", "\\")):
        return root
    for folder in parents_up_to(path.parent, root):
        if (folder / lines[0].image.replace("\\", "/")).is_file():
            return folder
    return root


def parents_up_to(folder: Path, root: Path) -> Iterable[Path]:
    """Yield a folder and those above it, up to ``root``."""
    yield folder
    while folder != root and folder != folder.parent and root in folder.parents:
        folder = folder.parent
        yield folder


class Finder:
    """Finds the files of the lines of lists. base: the folder to which paths refer."""

    def __init__(self, folders: Folders | None, base: Path) -> None:
        self.folders, self.base = folders, base
        self.images = images_below(folders.images, IMAGE_SUFFIXES)[0] if folders else {}
        self.masks = images_below(folders.masks, MASK_SUFFIXES)[0] if folders else {}

    def files(self, lines: Sequence[Line], source: Path) -> tuple[dict[str, Path], dict[str, Path], list[str]]:
        """Return the images and masks of a list by name, and the files that are missing, as problems.

        Raises UserError for a path that leaves the folder.
        """
        images: dict[str, Path] = {}
        masks: dict[str, Path] = {}
        problems: list[str] = []
        for line in lines:
            text = line.image.replace("\\", "/").removeprefix("./")
            path = below(self.base, text, source)
            stem = os.path.splitext(text)[0] if os.path.splitext(text)[1].lower() in IMAGE_SUFFIXES else text
            known = next((name for name in (text, stem, os.path.basename(stem)) if name in self.images), None)
            if line.mask is None and known is not None and not path.is_file():
                images[known] = self.images[known]
            elif path.is_file():
                images[stem] = path
            else:
                where = self.folders.images if self.folders else self.base
                problems.append(f"{source}: lists {line.image[:200]}, but {where} has no such image. {ADD}")
                continue
            if line.mask is not None:
                mask_path = below(self.base, line.mask, source)
                if mask_path.is_file():
                    masks[stem] = mask_path
                else:
                    problems.append(f"{source}: lists {line.mask[:200]}, but {self.base} has no such file. {ADD}")
        if self.masks:
            by_stem = {name.rpartition("/")[2]: name for name in images}
            lookup, stems = Lookup(images), Lookup(by_stem)
            for mask, path in self.masks.items():
                owner = lookup.owner(mask) or by_stem.get(stems.owner(mask) or "")
                if owner is not None:
                    masks.setdefault(owner, path)
        return images, masks, problems


def folders_of_names(names: Sequence[str], near: Sequence[Path], root: Path) -> Folders | None:
    """Return the folders of images and masks below the nearest folder that have files of the listed names."""
    wanted = {os.path.splitext(name)[0].rpartition("/")[2] for name in names} | {*names}
    for folder in near:
        if not folder.is_relative_to(root):
            return None
        found: dict[str, tuple[int, Path]] = {}
        for entry in sorted(os.listdir(folder)):
            kind = role(entry)
            if kind is None or kind.kind is None or not (folder / entry).is_dir():
                continue
            present = images_below(folder / entry, MASK_SUFFIXES)[0]
            lookup = Lookup(wanted)
            number = sum(lookup.owner(name.rpartition("/")[2]) is not None for name in present)
            if number > found.get(kind.kind, (0, folder))[0]:
                found[kind.kind] = number, folder / entry
        if len(found) == 2:
            return Folders(found["images"][1], found["masks"][1])
    return None


# COCO


def find_coco(root: Path) -> dict[Part, tuple[Path, Any]]:
    """Return the COCO file of each split below a folder, with its content. Raises UserError for two of one split."""
    files = []
    for parent, parts, names in walk(root, []):
        stems = {os.path.splitext(name)[0] for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES}
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() == ".json" and stem not in stems and not stem.startswith(NO_MASKS):
                files.append((parts, Path(parent) / name))
    instances = [file for file in files if file[1].name.startswith("instances")]
    found: dict[Part, tuple[Path, Any]] = {}
    errors: list[UserError] = []
    for parts, path in instances or (files if len(files) <= MOST_FILES else []):
        try:
            content = read_json(path)
        except UserError as error:  # which counts if no other file is COCO's
            errors.append(error)
            continue
        if not (isinstance(content, dict) and {"images", "annotations"} <= content.keys()):
            continue
        require_coco(path, content)
        splits = [split_in(path.stem), *(split_in(part) for part in reversed(parts))]
        part: Part = next((split for split in splits if split), "all")
        if part in found:
            raise UserError(
                f"{path} and {found[part][0]}: two COCO files for {part}. Give the one to be read, for example "
                f"data.dataset.masks='{path.relative_to(root)}', or with {{split}} in its name."
            )
        found[part] = path, content
    if errors and not found:
        raise errors[0]
    return found


def coco_layout(found: Mapping[Part, tuple[Path, Any]], root: Path, folders: Mapping[Part, Path] | None) -> Layout:
    """Return the images and masks of COCO files.

    folders: of the images of each split; None: a folder below ``root`` that has the first image. Raises UserError for
    missing images, and for paths that leave the folder.
    """
    parts: dict[Part, Files] = {}
    notes: list[str] = []
    order: list[str] = []
    used: set[Path] = set()
    where: dict[Part, Path] = {}
    for part, (path, content) in found.items():
        coco = read_coco(path, content)
        if not coco.images:
            raise UserError(f"{path}: lists no images. Replace or remove it.")
        folder = folders[part] if folders else folder_of(coco, path, part, root)
        where[part] = folder
        images = listed(folder, [name for name, _ in coco.images], path)
        names = [os.path.splitext(name.replace("\\", "/"))[0] for name, _ in coco.images]
        if len(set(names)) < len(names):
            twin = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path}: two images have the name {twin}. Keep only one of the two.")
        masks = dict(zip(names, (drawing for _, drawing in coco.images), strict=True))
        parts[part] = Files(dict(zip(names, images, strict=True)), masks, Folders(folder, path))
        notes += [f"{part}: COCO annotations of {path}, images of {folder}.", *coco.notes]
        order += coco.categories
        used |= {*images}
    for folder in dict.fromkeys(where.values()):
        unlisted = [path for path in images_below(folder, IMAGE_SUFFIXES)[0].values() if path not in used]
        others = [other for other in where.values() if other != folder and other.is_relative_to(folder)]
        unlisted = [path for path in unlisted if not any(path.is_relative_to(other) for other in others)]
        if unlisted:
            notes.append(f"{folder}: {len(unlisted)} images are not listed and not read ({unlisted[0].name}).")
    if empty := [name for name in dict.fromkeys(order) if not any(name in drawn(files) for files in parts.values())]:
        notes.append(f"categories without annotations are left out: {', '.join(empty[:8])}.")
    return Layout(parts, tuple(notes), order=tuple(dict.fromkeys(order)))


def drawn(files: Files) -> set[str]:
    """Return the names of the classes of annotated images."""
    return set().union(*(getattr(mask, "names", set()) for mask in files.masks.values()))


def folder_of(coco: Coco, path: Path, part: Part, root: Path) -> Path:
    """Return the folder below ``root`` to which the file names of a COCO file refer; the one of its split first."""
    first = coco.images[0][0]
    below(root, first, path)  # a path that leaves the folder is an error in any case
    name = first.replace("\\", "/").removeprefix("./")
    candidates = []
    for parent, parts, _ in walk(root, []):
        if os.path.isfile(f"{parent}{os.sep}{name}"):
            splits = {split_in(part) for part in parts} - {None}
            images = any(part.lower() in IMAGE_WORDS for part in parts)
            candidates.append((splits != {part}, Path(parent) != path.parent, not images, len(parts), Path(parent)))
    if not candidates:
        raise UserError(
            f"{path}: lists {name[:200]}, but no folder below {root} has it. Add the images, or give their folder: "
            f"data.dataset.images=FOLDER data.dataset.masks={path.relative_to(root)}."
        )
    return min(candidates)[-1]
