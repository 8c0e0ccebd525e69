"""What the splits of a data set say about one another. It is cheap: ``check_data`` and every training report it."""

from collections.abc import Mapping, Sequence

from segpipe.data.class_counts import Counts
from segpipe.data.dataset import Split


def find_problems(classes: Sequence[str], pixels: Mapping[Split, Counts]) -> list[tuple[Split, str]]:
    """Return splits with what is wrong with their classes.

    pixels: the pixels of each class (K,) of those splits for which they are known.
    """
    problems: list[tuple[Split, str]] = []
    for index, name in enumerate(classes if "train" in pixels else []):
        if not pixels["train"][index]:
            others = [split for split in ("val", "test") if split in pixels and pixels[split][index]]
            also = f", but {' and '.join(others)} contain{'s' if len(others) == 1 else ''} it" if others else ""
            problems.append(("train", f"class {name}: no mask has a pixel of it{also}; it cannot be learned."))
    for split in ("val", "test"):
        if split in pixels and not any(pixels[split]):
            problems.append((split, "no mask has a labelled pixel, so this split has no score. Add labelled images."))
        present = [name for name, count in zip(classes, pixels.get(split, ()), strict=False) if count]
        if len(present) == 1 and len(classes) > 1:
            problems.append(
                (
                    split,
                    f"all masks contain only {present[0]}: the mIoU is the score of this class alone. Add images "
                    f"with other classes, or divide the images otherwise.",
                )
            )
    return problems


def find_notes(numbers: Mapping[Split, int]) -> list[str]:
    """Return notes on splits of a single image. numbers: images of each split."""
    return [
        f"{split} has a single image: its score says little about other images. Add images to it."
        for split in ("val", "test")
        if numbers.get(split) == 1
    ]
