"""Find out in which layout a folder is, where its names are not those of ``layout.find_folders``."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from segpipe.data.find import IMAGE_SUFFIXES, images_below, is_stray, walk
from segpipe.data.folder.annotations import is_labelme, read_json, read_labelme
from segpipe.data.folder.classes import Classes, from_json, numbers
from segpipe.data.folder.encoding import MOST_FOUND
from segpipe.data.folder.layout import (
    JSON,
    MASK_SUFFIXES,
    Files,
    FolderLayout,
    Folders,
    Layout,
    Lookup,
    Part,
    find_folders,
    fits,
    read_folders,
    told_by_name,
)
from segpipe.data.folder.listing import coco_layout, find_coco, find_lists, read_lists
from segpipe.data.folder.seen import contents, nearest_layout
from segpipe.data.folder.sources import ClassFiles
from segpipe.data.folder.survey import MaskSource
from segpipe.data.folder.words import Kind, role, split_word
from segpipe.errors import UserError

WRAPPERS = 3  # folders that contain only one folder, as of an archive, which are entered
CHANNEL = re.compile(r"(.+)_(\d{4})")  # of nnU-Net: case and channel


def understand(root: Path) -> Layout:
    """Return the layout of a folder. Raises UserError that says what is there, and which layout is nearest."""
    error: UserError | None = None
    try:
        layout = read_plain(find_folders(root))
        if any(map(fits, layout.parts.values())):
            return with_unread_lists(layout, root)
    except UserError as plain:
        error = plain
    place = root
    for depth in range(WRAPPERS):
        if (found := detect(place)) is not None:
            inner = (f"{root} contains only the folder {place.relative_to(root)}.",) if depth else ()
            return found._replace(notes=(*inner, *found.notes))
        entries = [entry for entry in sorted(os.listdir(place)) if not is_stray(entry)]
        folders = [entry for entry in entries if (place / entry).is_dir()]
        if len(folders) != 1 or role(folders[0]) is not None:
            break
        place = place / folders[0]
        try:
            layout = read_plain(find_folders(place))
        except UserError:
            continue
        if any(map(fits, layout.parts.values())):
            return layout._replace(notes=(f"{root} contains only the folder {place.relative_to(root)}.", *layout.notes))
    if error is None:
        return layout  # whose problems say that nothing fits
    raise UserError(f"{error} There: {contents(root)}.{nearest_layout(root)}")


def with_unread_lists(layout: Layout, root: Path) -> Layout:
    """Return a layout without folders of splits with a note, if there are lists of splits beside it."""
    lists = find_lists(root) if "all" in layout.parts else {}
    if "train" not in lists:
        return layout
    template = str(lists["train"].relative_to(root)).replace(lists["train"].stem, "{split}")
    note = f"{lists['train']} is not read. To take the splits from lists: data.dataset.lists='{template}'."
    return layout._replace(notes=(*layout.notes, note))


def read_plain(folders: FolderLayout) -> Layout:
    """Return the files of folders of images and masks, which may be LabelMe files, or a file for each class."""
    return Layout({part: read_files(both) for part, both in folders.items()})


def read_files(folders: Folders) -> Files:
    """Return the images and masks of two folders, whatever the masks are."""
    files = read_folders(folders)
    if not files.images or fits(files):
        return files
    return by_class(files) or labelme_files(files) or files


def labelme_files(files: Files) -> Files | None:
    """Return the images with LabelMe files in place of masks, if the folder of masks has such files."""
    if files.masks:
        return None
    found, problems = images_below(files.where.masks, JSON)
    lookup = Lookup(files.images)
    owners = {name: owner for name in found if (owner := lookup.owner(name)) is not None}
    if not any_labelme(found[name] for name in owners):
        return None
    masks, wrong = read_all({owner: found[name] for name, owner in owners.items()}, files.images)
    note = f"{files.where.masks}: labels are LabelMe files; pixels without a shape are background."
    return files._replace(masks=masks, problems=(*files.problems, *problems, *wrong), notes=(note,))


def any_labelme(paths: Iterable[Path]) -> bool:
    """Return whether the first JSON file that can be read is LabelMe's."""
    for path in paths:
        with suppress(UserError):
            return is_labelme(read_json(path))
    return False


def read_all(paths: Mapping[str, Path], images: Mapping[str, Path]) -> tuple[dict[str, MaskSource], list[str]]:
    """Return the masks of LabelMe files by the names of their images, and the problems of invalid ones."""
    masks: dict[str, MaskSource] = {}
    problems = []
    for name, path in paths.items():
        try:
            masks[name] = read_labelme(path, images.get(name))
        except UserError as error:
            problems.append(str(error))
    return masks, problems


def by_class(files: Files) -> Files | None:
    """Return the images with a mask for each class, ``CLASS/x.png`` or ``x_CLASS.png``; None for other names."""
    lookup = Lookup(files.images)
    divided: list[list[tuple[str, str | None] | None]] = [
        [(parts[0], lookup.owner(parts[2])) if (parts := name.partition("/"))[2] else None for name in files.masks],
        [*(ending(name, files.images) for name in files.masks)],
    ]
    for number, ways in enumerate(divided):
        found = [way for way in ways if way is not None and way[1] is not None]
        labels = {label for label, _ in found}
        if not found or len(found) < len(ways) or any(split_word(label.lower()) for label in labels):
            continue
        if len(labels) > MOST_FOUND or (number == 1 and len(labels) < 2):  # x_abc.png alone may be any ending
            continue
        masks: dict[str, list[tuple[str, Path]]] = {}
        for (label, owner), path in zip(found, files.masks.values(), strict=True):
            masks.setdefault(str(owner), []).append((label, path))  # type: ignore[arg-type]
        form = "x_CLASS.png" if number else "CLASS/x.png"
        fewer = sum(len(own) < len(labels) for own in masks.values())
        note = (
            f"{files.where.masks}: a mask for each class, {form}, of {numbers(sorted(labels))}. Where two overlap, the "
            f"class that comes later counts."
        )
        note += f" {fewer} images lack the mask of a class: it has no pixel there." if fewer else ""
        sources = {name: ClassFiles(own[0][1], own) for name, own in masks.items()}
        return files._replace(masks=sources, notes=(note,))
    return None


def ending(mask: str, images: Mapping[str, Path]) -> tuple[str, str] | None:
    """Return the class and the image of a mask ``x_CLASS``: the longest name of an image; None if there is none."""
    for position in range(len(mask) - 1, 0, -1):
        if mask[position] in "_-." and mask[:position] in images:
            return mask[position + 1 :], mask[:position]
    return None


def detect(root: Path) -> Layout | None:
    """Return the layout of a folder of nnU-Net, of lists, with other words for images and masks, or of COCO."""
    if (found := nnunet(root)) is not None:
        return found
    if lists := find_lists(root):
        return read_lists(lists, root, None)
    if (found := by_words(root)) is not None:
        return found
    coco = find_coco(root)
    return complete(coco_layout(coco, root, None)) if coco else None


def complete(layout: Layout) -> Layout:
    """Return a layout in which a part of train is val, if there are train and test, but no val."""
    parts = dict(layout.parts)
    if "train" in parts and "test" in parts and "val" not in parts:
        parts = {"trainval" if part == "train" else part: files for part, files in parts.items()}
    return layout._replace(parts=parts)


def nnunet(root: Path) -> Layout | None:
    """Return nnU-Net's layout, ``imagesTr`` and ``labelsTr``; None if there are no such folders."""
    train = Folders(root / "imagesTr", root / "labelsTr")
    if not train.images.is_dir() or not train.masks.is_dir():
        return None
    volumes = sorted(path.name for folder in train for path in folder.glob("*.nii*"))
    if volumes:
        raise UserError(
            f"{train.images}: {len(volumes)} volumes ({volumes[0]}). Images are read one by one: save each slice as a "
            f"PNG or TIFF of its own, for example with nibabel: case_000_0000.png, and its labels case_000.png."
        )
    parts: dict[Part, Files] = {"trainval": nnunet_files(train)}
    test = Folders(root / "imagesTs", root / "labelsTs")
    if test.images.is_dir() and test.masks.is_dir() and (files := nnunet_files(test)).masks:
        parts["test"] = files
    else:
        parts = {"all": parts["trainval"]}
    classes, description = None, root / "dataset.json"
    if description.is_file():
        content = read_json(description)
        labels = content.get("labels") if isinstance(content, dict) else None
        classes = nnunet_classes(labels, str(description)) if labels else None
    channels = 1 + max((len(more) for more in parts[next(iter(parts))].more.values()), default=0)
    return Layout(parts, (f"nnU-Net's layout, {channels} file{'s' * (channels > 1)} for each image.",), classes)


def nnunet_files(folders: Folders) -> Files:
    """Return the images, of one file for each channel, and the masks of two folders of nnU-Net."""
    files = read_folders(folders)
    channels: dict[str, dict[int, Path]] = {}
    problems = list(files.problems)
    for name, path in files.images.items():
        if (found := CHANNEL.fullmatch(name)) is None:
            problems.append(
                f"{path}: the name does not end with the number of a channel, as in {name}_0000. Rename it."
            )
        else:
            channels.setdefault(found[1], {})[int(found[2])] = path
    expected = sorted(set().union(*channels.values()))
    for name, own in channels.items():
        if sorted(own) != expected:
            problems.append(
                f"{own[min(own)]}: {name} has the channels {sorted(own)}, others have {expected}. Add them."
            )
    images = {name: own[min(own)] for name, own in channels.items()}
    more = {name: tuple(own[n] for n in sorted(own)[1:]) for name, own in channels.items() if len(own) > 1}
    return files._replace(images=images, more=more, problems=tuple(problems))


def nnunet_classes(labels: Any, where: str) -> Classes:
    """Return the classes of nnU-Net's ``dataset.json``. Raises UserError for regions of several values."""
    if isinstance(labels, dict) and (wrong := [name for name, value in labels.items() if isinstance(value, list)]):
        raise UserError(
            f"{where}: {wrong[0]} is {labels[wrong[0]]}, a region of several labels. Name each value once, and make "
            f"one class of several: data.dataset.merge={{NAME: {wrong[0]}}}."
        )
    if isinstance(labels, dict) and "ignore" in labels:
        labels = {("ignored" if name == "ignore" else name): value for name, value in labels.items()}
    return from_json(labels, where)


def by_words(root: Path) -> Layout | None:
    """Return the layout that the names of folders and files tell, in any order of nesting; None if they do not.

    A folder's words say the split, and whether its files are images or masks (``words.role``); other folders are part
    of a file's name. Where no folder says it, the ending of a file's name does, ``x_mask.png``.
    """
    files: dict[Part, dict[Kind | None, dict[str, Path]]] = {}
    problems: list[str] = []
    for parent, parts, names in sorted(walk(root, problems), key=lambda folder: folder[1]):
        roles = [role(part) for part in parts]
        splits = {found.split for found in roles if found} - {None}
        kinds = {found.kind for found in roles if found} - {None}
        if len(splits) > 1 or len(kinds) > 1:
            continue
        rest = [part for part, found in zip(parts, roles, strict=True) if found is None]
        split: Part = next((split for split in splits if split), "all")
        kind = next(iter(kinds), None)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in MASK_SUFFIXES | JSON and os.path.isfile(f"{parent}{os.sep}{name}"):
                own = (
                    role(stem) if kind is None and rest and not stem[-1:].isdigit() else None
                )  # x/image.png, x/mask.png
                place = [*rest[:-1], rest[-1] + suffix] if own and own.kind else [*rest, name]
                of_kind = files.setdefault(split, {}).setdefault(own.kind if own else kind, {})
                of_kind["/".join(place)] = Path(parent) / name
    if len(files) > 1 and "all" in files:  # beside the folders of splits
        del files["all"]
    found_parts: dict[Part, Files] = {}
    for part, kinds_of in files.items():
        if (understood := told_apart(kinds_of, Folders(root, root))) is not None:
            found_parts[part] = understood
    if "all" not in found_parts and ("train" not in found_parts or len(found_parts) < 2):
        return None
    layout = complete(Layout(found_parts))
    return layout._replace(notes=tuple(described(part, files, root) for part, files in layout.parts.items()))


def told_apart(kinds: Mapping[Kind | None, dict[str, Path]], where: Folders) -> Files | None:
    """Return the images and masks of files of known kind; None if none of the masks has an image."""
    images, masks, other = ({**kinds.get(kind, {})} for kind in ("images", "masks", None))
    if masks and not images:
        images = other
    ways: list[Callable[[], Files | None]] = [
        lambda: separate(images, masks, where),
        lambda: together({**images, **other}, where),
    ]
    return next((found for way in ways if (found := way()) is not None), None)


def separate(images: Mapping[str, Path], masks: Mapping[str, Path], where: Folders) -> Files | None:
    """Return images and masks that lie in different folders; None if no mask has an image."""
    labels = by_stem(masks, MASK_SUFFIXES)
    files = Files(by_stem(images, IMAGE_SUFFIXES), labels or {}, folders_of(images, masks, where))
    if not files.images or not masks:
        return None
    if fits(files):
        return files
    grouped = (by_class(files) or by_object(files)) if labels else None
    return grouped or with_json(files, by_stem(masks, JSON))


def by_object(files: Files) -> Files | None:
    """Return the images with a mask of foreground, of a file for each object in the folder of the image's name.

    None if a folder has not one image, or if not all masks have an image.
    """
    image_of: dict[str, list[str]] = {}
    for name in files.images:
        image_of.setdefault(name.rpartition("/")[0], []).append(name)
    objects: dict[str, list[tuple[str, Path]]] = {}
    for name, path in files.masks.items():
        folder = name.rpartition("/")[0]
        if not folder or len(image_of.get(folder, ())) != 1 or not isinstance(path, Path):
            return None
        objects.setdefault(image_of[folder][0], []).append(("foreground", path))
    note = f"{files.where.masks}: several masks for an image are its objects; together they are the foreground."
    masks = {name: ClassFiles(own[0][1], own) for name, own in objects.items()}
    return files._replace(masks=masks, notes=(*files.notes, note))


def with_json(files: Files, found: Mapping[str, Path]) -> Files | None:
    """Return images with LabelMe files of their names; None if there are none."""
    lookup = Lookup(files.images)
    owners = {owner: path for name, path in found.items() if (owner := lookup.owner(name)) is not None}
    if not any_labelme(owners.values()):
        return None
    masks, problems = read_all(owners, files.images)
    note = "labels are LabelMe files; pixels without a shape are background."
    return files._replace(masks=masks, problems=(*files.problems, *problems), notes=(*files.notes, note))


def together(files: Mapping[str, Path], where: Folders) -> Files | None:
    """Return images and masks of one folder: ``x.jpg`` and ``x_mask.png``, or ``x.png``, or ``x.json``."""
    names = by_stem(files, IMAGE_SUFFIXES)
    where = folders_of(files, files, where)
    images, masks = told_by_name(names)
    if not masks:
        lossy = {
            os.path.splitext(name)[0]: path for name, path in files.items() if path.suffix.lower() in (".jpg", ".jpeg")
        }
        exact = by_stem(files, MASK_SUFFIXES - {".jpg", ".jpeg"})
        if lossy and lossy.keys() == exact.keys():
            note = f"{where.images}: of two files of one name, the JPEG is the image and the other file the mask."
            return Files(lossy, exact, where, notes=(note,))
    found = Files(images, masks, where)
    if masks:
        return found if fits(found) else None
    return with_json(found, by_stem(files, JSON))


def by_stem(files: Mapping[str, Path], suffixes: set[str]) -> dict[str, Path]:
    """Return the files with some suffixes by their names without suffix."""
    return {os.path.splitext(name)[0]: path for name, path in files.items() if path.suffix.lower() in suffixes}


def folders_of(images: Mapping[str, Path], masks: Mapping[str, Path], where: Folders) -> Folders:
    """Return the folders that contain all images, and all masks."""
    both = [
        Path(os.path.commonpath([path.parent for path in files.values()])) if files else other
        for files, other in ((images, where.images), (masks, where.masks))
    ]
    return Folders(*both)


def described(part: Part, files: Files, root: Path) -> str:
    """Return a note of where the images and masks of a part were found."""
    images, masks = (os.path.relpath(folder, root) for folder in files.where)
    name = {"all": "all images", "trainval": "train and val"}.get(part, part)
    where = (
        f"images of {images}, masks of {masks}" if images != masks else f"images and masks of {images}, by their names"
    )
    return f"{name}: {where} (found by the names of the folders)."
