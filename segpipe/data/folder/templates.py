"""Layouts that the user gives as templates: ``images={split}/img/*.tif masks={split}/lab/{name}_L.png``."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from segpipe.data.find import IMAGE_SUFFIXES, same_letters
from segpipe.data.folder.annotations import read_labelme
from segpipe.data.folder.layout import JSON, MASK_SUFFIXES, Files, Folders, Layout, Part
from segpipe.data.folder.paths import Found, Template
from segpipe.data.folder.seen import contents
from segpipe.data.folder.sources import ClassFiles
from segpipe.data.folder.survey import MaskSource
from segpipe.errors import UserError


class Named(NamedTuple):
    """A file that a template matches. names: those by which its partner may be found; leads: the earlier ``*``."""

    found: Found
    names: tuple[str, ...]
    leads: tuple[str, ...]


def image_template(text: str, root: Path | None) -> Template:
    """Return the template of the option ``data.dataset.images``; a folder stands for all images in it."""
    return of_files(text, "*", Template(text, key="data.dataset.images", root=root, suffixes=IMAGE_SUFFIXES))


def mask_template(text: str, root: Path | None) -> Template:
    """Return the template of the option ``data.dataset.masks``; a folder stands for the masks of the images' names."""
    suffixes = MASK_SUFFIXES | JSON
    return of_files(text, "{name}", Template(text, key="data.dataset.masks", root=root, suffixes=suffixes))


def of_files(text: str, inside: str, template: Template) -> Template:
    """Return a template of files; one of folders stands for the files in them."""
    if not any(template.folders()):
        return template
    return Template(f"{text}/{inside}", key=template.key, root=template.root, suffixes=template.suffixes)


def read_templates(images: Template, masks: Template) -> Layout:
    """Return the files that two templates match. Raises UserError if one of them matches nothing."""
    image_files = [named(found) for found in images.find()]
    for template, files in ((images, image_files), (masks, mask_files := masks.find())):
        if not files:
            raise UserError(
                f"{template.key}={template.text}: no file matches. {template.folder} has {contents(template.folder)}."
            )
    names = {same_letters(name) for image in image_files for name in image.names}
    labels = [named(divided(found, masks.parts[-1], names)) for found in mask_files]
    return Layout(paired(image_files, labels, Folders(Path(images.text), Path(masks.text))))


def named(found: Found) -> Named:
    """Return a file with its names: what ``{name}`` matched, else the last ``*``, else its name without suffix."""
    if found.name is not None:
        return Named(found, (found.name,), found.stars)
    stem = found.path.name.removesuffix(found.path.suffix)
    if not found.stars:
        return Named(found, (stem,), ())
    return Named(found, tuple(dict.fromkeys((found.stars[-1].removesuffix(found.path.suffix), stem))), found.stars[:-1])


def divided(found: Found, part: str, names: Collection[str]) -> Found:
    """Return a mask with that division of ``{name}_{class}`` of which the name is an image's, if there is one."""
    between = re.search(r"\{(name|class)\}([^{}*?]+)\{(name|class)\}", part)
    if between is None or found.name is None or found.label is None or same_letters(found.name) in names:
        return found
    first, separator = between[1], between[2]
    text = separator.join((found.name, found.label) if first == "name" else (found.label, found.name))
    for position in reversed([match.start() for match in re.finditer(re.escape(separator), text)]):
        sides = text[:position], text[position + len(separator) :]
        name, label = sides if first == "name" else sides[::-1]
        if same_letters(name) in names:
            return found._replace(name=name, label=label)
    return found


def paired(images: list[Named], labels: list[Named], where: Folders) -> dict[Part, Files]:
    """Return the images of each split with those masks that have the same split, ``*`` and name."""
    bound = min((len(file.leads) for file in (*images, *labels)), default=0)
    split_of_masks = any(mask.found.split for mask in labels)
    by_key: dict[tuple[str | None, tuple[str, ...], str], list[Named]] = {}
    for mask in labels:
        by_key.setdefault((mask.found.split, mask.leads[:bound], same_letters(mask.names[0])), []).append(mask)
    parts: dict[Part, tuple[dict[str, Path], dict[str, Path | MaskSource], list[str]]] = {}
    used: set[int] = set()
    for image in images:
        splits = (
            [image.found.split] if image.found.split and split_of_masks else dict.fromkeys(key[0] for key in by_key)
        )
        keys = [(split, image.leads[:bound], same_letters(name)) for name in image.names for split in splits]
        key = next((key for key in keys if key in by_key), None)
        part: Part = image.found.split or (by_key[key][0].found.split if key else None) or "all"
        images_of, masks_of, problems = parts.setdefault(part, ({}, {}, []))
        name = "/".join([*image.leads, image.names[0]])
        if name in images_of:
            problems.append(f"{image.found.path}: has the same name as {images_of[name]}. Keep only one of the two.")
            continue
        images_of[name] = image.found.path
        if key is not None:
            if (label := label_of(by_key[key], image.found.path, problems)) is not None:
                masks_of[name] = label
            else:
                del images_of[name]
            used |= {id(mask) for mask in by_key[key]}
    if not used:
        raise UserError(
            f"data.dataset.masks={where.masks}: none of {len(labels)} files has the name of an image: the masks have "
            f"names as {labels[0].names[0]}, the images as {images[0].names[0]}. {{name}} stands for the name of an "
            f"image: write what else is in the name of a mask around it."
        )
    for mask in labels:
        home: Part = next(iter(parts))
        home = mask.found.split or home
        if id(mask) not in used and home in parts:
            parts[home][2].append(f"{mask.found.path}: no image of this name. Add it, or remove the mask.")
    if "test" in parts and len(parts) > 1 and not parts["test"][1]:  # images without masks, as competitions give them
        del parts["test"]
    return {part: Files(images, masks, where, tuple(problems)) for part, (images, masks, problems) in parts.items()}


def label_of(files: list[Named], image: Path, problems: list[str]) -> Path | MaskSource | None:
    """Return the mask of the files that belong to an image: one file, a LabelMe file, or a file for each class.

    None for an invalid LabelMe file, which is added to the problems.
    """
    first = files[0].found
    if first.label is not None:
        return ClassFiles(first.path, [(str(file.found.label), file.found.path) for file in files])
    if len(files) > 1:
        problems.append(f"{files[1].found.path}: has the same name as {first.path}. Keep only one of the two.")
    if first.path.suffix.lower() not in JSON:
        return first.path
    try:
        return read_labelme(first.path, image)
    except UserError as error:
        problems.append(str(error))
        return None
