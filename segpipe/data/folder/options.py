"""The options of ``data=folder`` that say where the files are, and the layout that they mean."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from segpipe.data.folder.annotations import read_json
from segpipe.data.folder.detect import complete, read_plain, understand
from segpipe.data.folder.layout import (
    LAYOUTS,
    FolderLayout,
    Folders,
    Layout,
    Part,
    find_folders,
    split_dirs,
)
from segpipe.data.folder.listing import coco_layout, read_lists
from segpipe.data.folder.paths import Template, is_template, present
from segpipe.data.folder.templates import image_template, mask_template, read_templates
from segpipe.errors import UserError


class Options(NamedTuple):
    """The options of ``data.dataset`` as they are given: folders, templates below ``root``, templates of lists."""

    root: str | None
    images: str | None
    masks: str | None
    lists: str | None

    @property
    def root_folder(self) -> Path | None:
        """Return the folder ``data.root``. Raises UserError if there is none."""
        if self.root is None:
            return None
        root = Path(os.path.expanduser(self.root))
        if not root.is_dir():
            by_shell = " The shell has not replaced the $: write it without quotes of the kind '...'." * (
                "$" in str(root)
            )
            raise UserError(f"data.root={root}: there is no such folder.{by_shell}")
        return root

    @property
    def is_coco(self) -> bool:
        """Return whether ``masks`` is a COCO file, or one for each split."""
        text = self.masks or ""
        return text.lower().endswith(".json") and not any(mark in text for mark in ("{name}", "{class}", "*", "?"))

    @property
    def in_templates(self) -> bool:
        """Return whether ``images`` or ``masks`` is a template."""
        return any(is_template(text) for text in (self.images, self.masks) if text)

    def templates(self) -> list[Template]:
        """Return the templates of ``images``, ``masks`` and ``lists``, as far as they are given as such."""
        found = []
        if self.lists:
            found.append(Template(self.lists, key="data.dataset.lists", root=self.root_folder, suffixes={".txt"}))
        if (self.in_templates or self.is_coco) and self.images:
            found.append(image_template(self.images, self.root_folder))
        if (self.in_templates or self.is_coco) and self.masks:
            found.append(mask_template(self.masks, self.root_folder))
        return found

    def pair(self) -> Folders | None:
        """Return the folders ``images`` and ``masks``; None if they are not given. Raises UserError if one is missing.

        A relative path is one of the working directory, or else of ``root``.
        """
        if self.images is None or self.masks is None:
            return None
        paths = []
        for key, text in (("images", self.images), ("masks", self.masks)):
            path = Path(os.path.expanduser(text))
            below = Path(os.path.expanduser(self.root)) / path if self.root else path
            if not path.is_dir() and not below.is_dir():
                raise UserError(f"data.dataset.{key}={path}: there is no such folder.{present(below)}")
            paths.append(path if path.is_dir() else below)
        return Folders(*paths)

    def folders(self) -> list[Path]:
        """Return the folders below which all files are, for a digest of them."""
        found = [template.folder for template in self.templates()]
        if not self.in_templates and not self.is_coco and (pair := self.pair()):
            return list(dict.fromkeys([*found, *pair]))
        complete = self.images is not None if self.is_coco else self.in_templates
        root = None if complete and not self.lists else self.root_folder
        if found or root is None:  # lists and annotations name files anywhere below root
            return list(dict.fromkeys([*found, root] if root is not None else found))
        with suppress(UserError):
            return list(dict.fromkeys(folder for both in find_folders(root).values() for folder in both))
        return [root]


def layout_of(options: Options) -> Layout:
    """Return the layout that the options mean. Raises UserError if they name nothing that can be understood."""
    root = options.root_folder
    if options.lists:
        template = options.templates()[0]
        lists: dict[Part, Path] = {found.split or "all": found.path for found in template.find()}
        if not lists:
            raise UserError(f"data.dataset.lists={options.lists}: no file matches.{present(template.folder / 'x')}")
        return complete(read_lists(lists, root or template.folder, options.pair()))
    if options.is_coco:
        return given_coco(options)
    if (options.images is None) != (options.masks is None):
        raise UserError("data.dataset.images and data.dataset.masks belong together: give both, or only data.root.")
    if options.in_templates:
        images, masks = options.templates()
        return complete(read_templates(images, masks))
    if (pair := options.pair()) is not None:
        return read_plain(split_dirs(pair))
    if root is None:
        raise UserError(f"data=folder requires data.root=FOLDER. Allowed is {LAYOUTS}.")
    return understand(root)


def given_coco(options: Options) -> Layout:
    """Return the layout of COCO files that ``masks`` names, and of the folders of images that ``images`` names."""
    masks = options.templates()[-1]
    files = masks.find()
    contents: dict[Part, tuple[Path, object]] = {
        found.split or "all": (found.path, read_json(found.path)) for found in files
    }
    if not contents:
        raise UserError(f"data.dataset.masks={options.masks}: no file matches.{present(masks.folder / 'x')}")
    root = options.root_folder or masks.folder
    folders: dict[Part, Path] | None = None
    if options.images:
        folder, _, last = options.images.rpartition("/")
        text = folder if folder and ("*" in last or "{name}" in last) else options.images  # the folder of the images
        template = Template(text, key="data.dataset.images", root=options.root_folder, suffixes=set())
        found: dict[Part, Path] = {part.split or "all": part.path for part in template.folders()}
        folders = {part: found.get(part, found.get("all", Path())) for part in contents}
        if missing := [part for part, folder in folders.items() if folder == Path()]:
            raise UserError(f"data.dataset.images={options.images}: there is no such folder for {missing[0]}.")
    return complete(coco_layout(contents, root, folders))


def class_places(options: Options) -> list[Path]:
    """Return the folders in which a list of the classes is looked for, the first one first."""
    root = options.root_folder
    found = [root] if root is not None else []
    layout: FolderLayout = {}
    with suppress(UserError):
        pair = None if options.in_templates or options.is_coco else options.pair()
        layout = split_dirs(pair) if pair else find_folders(root) if root is not None else {}
    for split, folders in layout.items():  # ROOT/train/masks, or ROOT/masks/train
        found += [] if split == "all" else [folders.masks.parent.parent]
        found += [folders.masks.parent]
    for folders in layout.values():  # beside the files themselves
        found += [folders.masks, folders.images]
    found += [template.folder for template in reversed(options.templates())]
    return [*found, *beside(found)]


def beside(folders: Iterable[Path]) -> list[Path]:
    """Return the folders that are alone in one of the given ones, as those of an archive."""
    alone = []
    for folder in folders:
        with suppress(OSError):
            inner = [entry for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
            alone += [Path(inner[0].path)] if len(inner) == 1 else []
    return alone
