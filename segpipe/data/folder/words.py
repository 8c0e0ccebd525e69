"""The words by which folders and files are recognised: names of splits, of images and of masks."""

import re
from typing import Literal, NamedTuple, get_args

from segpipe.data.dataset import Split

Kind = Literal["images", "masks"]

SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "ts"),
}
IMAGE_WORDS = (
    "images", "image", "imgs", "img", "jpeg", "jpegs", "jpg", "picture", "pictures", "photo", "photos", "input",
    "inputs", "frame", "frames",
)  # fmt: skip
MASK_WORDS = (
    "masks", "mask", "labels", "annotations", "label", "lab", "labs", "lbl", "lbls", "annotation", "ann", "anns",
    "anno", "annos", "annot", "annots", "seg", "segs", "segmentation", "segmentations", "gt", "gts", "groundtruth",
    "truth", "target", "targets",
)  # fmt: skip
FILLERS = {
    "data", "set", "dataset", "split", "all", "png", "tif", "tiff", "semantic", "binary", "gray", "grey", "rgb",
    "color", "colour", "original", "orig", "raw", "source", "ground", "class", "classes",
}  # fmt: skip
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # JPEGImages: JPEG, Images

# Endings of the names of masks, x_mask.png for x.jpg. The weak ones may also end the name of an image.
STRONG = "masks?|labels?|seg|segmentation|gt"
WEAK = "lab|lbl|l|m|segm|ann|anno|annotations?|groundtruth|truth|target|semantic|labelids|labeltrainids|manual1?|matte"
MASK_ENDING = re.compile(rf"[_\-. ](?:{STRONG})$", re.IGNORECASE)
WEAK_ENDING = re.compile(rf"[_\-. ](?:{WEAK})$", re.IGNORECASE)
MASK_START = re.compile(rf"(?<![^/])(?:{STRONG}|annotations?)(?:[_\- ]|(?=\d))(?=[^/]+$)", re.IGNORECASE)
IMAGE_ENDING = re.compile(r"[_\-. ](?:images?|img|im|sat|rgb|photo)$", re.IGNORECASE)
IMAGE_START = re.compile(r"(?<![^/])(?:images?|img|im)(?:[_\- ]|(?=\d))(?=[^/]+$)", re.IGNORECASE)


class Role(NamedTuple):
    """What the name of a folder says of the files below it; None where it does not say."""

    split: Split | None = None
    kind: Kind | None = None


def role(name: str) -> Role | None:
    """Return what a folder's name says: ``train_labels``, ``imagesTr``, ``JPEGImages``; None if it has other words."""
    words = [part for word in WORD.findall(name) for part in divided(word.lower())]
    splits = {split for split in map(split_word, words) if split}
    known = [split_word(word) or word in IMAGE_WORDS or word in MASK_WORDS or word in FILLERS for word in words]
    if not words or len(splits) > 1 or not all(flag or word.isdigit() for flag, word in zip(known, words, strict=True)):
        return None
    masks, images = any(word in MASK_WORDS for word in words), any(word in IMAGE_WORDS for word in words)
    kind: Kind | None = "masks" if masks else "images" if images else None
    found = Role(next(iter(splits), None), kind)
    return found if any(found) else None


def divided(word: str) -> list[str]:
    """Return the two words of which one is made, a split and a kind, as in ``trainannot``; else the word itself."""
    for split in (text for words in SPLIT_WORDS.values() for text in words if len(text) > 2):
        for rest in (word.removeprefix(split), word.removesuffix(split)):
            if rest != word and rest in (*IMAGE_WORDS, *MASK_WORDS):
                return [split, rest]
    return [word]


def split_word(word: str) -> Split | None:
    """Return the split that a lower-case word names."""
    return next((split for split in get_args(Split) if word in SPLIT_WORDS[split]), None)


def split_in(name: str) -> Split | None:
    """Return the split that is named anywhere in a file's name, as in ``instances_train2017``; None for none or two."""
    words = [part for word in WORD.findall(name) for part in divided(word.lower())]
    splits = {split_word(word) for word in words if len(word) > 2} - {None}
    return splits.pop() if len(splits) == 1 else None


def mask_owners(name: str) -> list[str]:
    """Return the names that the image of a mask may have, the likeliest first; the mask's own name is not among them.

    name: a path below a folder, without suffix.
    """
    forms = [MASK_ENDING.sub("", name), WEAK_ENDING.sub("", name), MASK_START.sub("", name)]
    return [form for form in dict.fromkeys(forms) if form != name and not form.endswith("/") and form]


def plain_image(name: str) -> str:
    """Return the name of an image without what marks images, ``x`` for ``x_img``."""
    plain = IMAGE_START.sub("", IMAGE_ENDING.sub("", name))
    return plain if plain and not plain.endswith("/") else name
