"""The section with the predictions of every network for the same images, from the runs' ``pictures/examples``."""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import PIL.Image

from segpipe.analysis.collection import Collection, FinishedRun
from segpipe.analysis.formatting import format_with_unit, pluralise
from segpipe.analysis.network_results import NetworkResult
from segpipe.analysis.page.blocks import Block, Example, ExampleImage, ExampleImages, Section, Text
from segpipe.errors import UserError
from segpipe.runs.storage import read_bytes

LARGEST = 6_000_000  # characters of all images of the page, at most
LARGEST_FILE = 400_000  # bytes; runs write images of 320 pixels
KINDS = {".jpg": ("JPEG", "image/jpeg"), ".png": ("PNG", "image/png")}
NONE = (
    "These runs have no example images (folder pictures/examples). New trainings write them: photo, ground truth and "
    "prediction for the same few validation images."
)


def section(collection: Collection, results: Sequence[NetworkResult]) -> Section:
    """Return as many examples as fit, with networks ranked by validation.

    Predictions are from each network's lowest seed.
    """
    title = "Example predictions"
    ranked = sorted(results, key=lambda one: -one.val)
    runs = {one.number: one.network.runs[min(one.network.runs)] for one in ranked}
    names = list(dict.fromkeys(name for run in runs.values() for name in examples_of(run)))
    examples: list[Example] = []
    used = 0
    for name in names:
        images = example(len(examples) + 1, name, ranked, runs)
        size = sum(len(image.uri) for image in images)
        if images and used + size <= LARGEST:
            truth = next((image.uri for image in images if image.label == "ground truth"), "data:,")
            examples.append(Example(len(examples) + 1, name, truth, images))
            used += size
    if not examples:
        message = "The example images are too large for this page." if names else NONE
        return Section("images", title, [Text(message)])
    seeds = sorted({min(one.network.runs) for one in ranked})
    caption = (
        f"{pluralise(len(examples), 'validation image')}{total_text(len(names), len(examples))}: photo, ground truth, "
        f"then the prediction of each network, the best on validation first. Networks are trained with seed "
        f"{seeds[0]}{' or their lowest seed' if len(seeds) > 1 else ''}; scores are test scores over all images and "
        f"seeds. Click an image to enlarge it beside the ground truth; the arrow keys or a swipe show the next one."
    )
    blocks: list[Block] = [ExampleImages(caption, legend(collection), examples)]
    return Section("images", title, blocks)


def total_text(total: int, shown: int) -> str:
    """Return the total number of examples if some are not shown."""
    return f" of {total} (the others would make the page too large)" if total > shown else ""


def legend(collection: Collection) -> list[tuple[str, str]]:
    """Return the classes with their CSS colours."""
    colours = [tuple(int(part) % 256 for part in colour) for colour in collection.palette]
    return [
        (name, f"rgb{colour}") for name, colour in zip(collection.classes, colours, strict=False) if len(colour) == 3
    ]


def examples_of(run: FinishedRun) -> list[str]:
    """Return the names of a run's examples."""
    folder = run.run.examples
    names = {path.name.removesuffix(".png") for path in folder.glob("*.png")} if folder.is_dir() else set()
    return sorted(name for name in names if not name.endswith(".truth"))


def example(
    number: int, name: str, ranked: Sequence[NetworkResult], first: dict[int, FinishedRun]
) -> list[ExampleImage]:
    """Return the photo, the ground truth and the predictions of one example; empty without a prediction."""
    runs = list(first.values())
    photo = next(filter(None, (read_image(run.run.examples / f"{name}.jpg", "photo") for run in runs)), None)
    truth = next(
        filter(None, (read_image(run.run.examples / f"{name}.truth.png", "ground truth") for run in runs)), None
    )
    predictions = [
        one._replace(score=f"test {format_with_unit(result.test, result.score)}")
        for result in ranked
        if (one := read_image(first[result.number].run.examples / f"{name}.png", result.network.label)) is not None
    ]
    if truth is not None:  # a prediction of another size belongs to another image
        predictions = [one for one in predictions if (one.width, one.height) == (truth.width, truth.height)]
    return [one for one in (photo, truth, *predictions) if one is not None] if predictions else []


def read_image(path: Path, label: str) -> ExampleImage | None:
    """Return an image file as a data URI; None if it is missing, damaged, too large, or no file of the run's own."""
    kind, mime = KINDS[path.suffix]
    if path.is_symlink():
        return None
    try:
        content = read_bytes(path, limit=LARGEST_FILE)
        with PIL.Image.open(BytesIO(content), formats=[kind]) as image:
            image.load()
            width, height = image.size
    except (UserError, OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        return None
    uri = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return ExampleImage(label, uri, width, height, exact=kind == "PNG")
