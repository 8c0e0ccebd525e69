"""The same pictures under every network, as the runs have left them in ``pictures/examples``."""

import base64
from collections.abc import Sequence
from pathlib import Path

import PIL.Image

from segpipe.analysis.collect import Collection, FinishedRun
from segpipe.analysis.formatting import pluralise, with_unit
from segpipe.analysis.page.blocks import Block, Example, Picture, Pictures, Section, Text
from segpipe.analysis.standings import NetworkResult

LARGEST = 6_000_000  # characters that all pictures of the page may take
LARGEST_FILE = 400_000  # bytes; a run writes pictures of 320 pixels
KINDS = {".jpg": ("JPEG", "image/jpeg"), ".png": ("PNG", "image/png")}
NONE = (
    "These runs have no example images (folder pictures/examples). New trainings write them: photo, ground truth and "
    "prediction for the same few validation images."
)


def section(collection: Collection, found: Sequence[NetworkResult]) -> Section:
    """As many examples as fit, each under every network, ranked by validation; of the lowest seed each has."""
    title = "Example predictions"
    ranked = sorted(found, key=lambda one: -one.val)
    first = {one.number: one.network.runs[min(one.network.runs)] for one in ranked}
    names = list(dict.fromkeys(name for run in first.values() for name in examples_of(run)))
    examples: list[Example] = []
    spent = 0
    for name in names:
        made = example(len(examples) + 1, name, ranked, first)
        size = sum(len(picture.uri) for picture in made)
        if made and spent + size <= LARGEST:
            truth = next((picture.uri for picture in made if picture.label == "ground truth"), "data:,")
            examples.append(Example(len(examples) + 1, name, truth, made))
            spent += size
    if not examples:
        why = "The example images are too large for this page." if names else NONE
        return Section("pictures", title, [Text(why)])
    seeds = sorted({min(one.network.runs) for one in ranked})
    caption = (
        f"{pluralise(len(examples), 'validation image')}{of_more(len(names), len(examples))}: photo, ground truth, "
        f"then the prediction of each network, the best on validation first. Networks are trained with seed "
        f"{seeds[0]}{' or their lowest seed' if len(seeds) > 1 else ''}; scores are test scores over all images and "
        f"seeds. Click an image to enlarge it beside the ground truth; the arrow keys or a swipe show the next one."
    )
    blocks: list[Block] = [Pictures(caption, legend(collection), examples)]
    return Section("pictures", title, blocks)


def of_more(there: int, shown: int) -> str:
    """That some are left out."""
    return f" of {there} (the others would make the page too large)" if there > shown else ""


def legend(collection: Collection) -> list[tuple[str, str]]:
    """The classes' colours, as CSS has them."""
    colours = [tuple(int(part) % 256 for part in colour) for colour in collection.palette]
    return [
        (name, f"rgb{colour}") for name, colour in zip(collection.classes, colours, strict=False) if len(colour) == 3
    ]


def examples_of(run: FinishedRun) -> list[str]:
    """Names of a run's examples."""
    there = run.run.examples
    names = {path.name.removesuffix(".png") for path in there.glob("*.png")} if there.is_dir() else set()
    return sorted(name for name in names if not name.endswith(".truth"))


def example(number: int, name: str, ranked: Sequence[NetworkResult], first: dict[int, FinishedRun]) -> list[Picture]:
    """Photo, truth and predictions; none without a photo and a truth that one of the runs has left whole."""
    runs = list(first.values())
    photo = next(filter(None, (picture(run.run.examples / f"{name}.jpg", "photo") for run in runs)), None)
    truth = next(filter(None, (picture(run.run.examples / f"{name}.truth.png", "ground truth") for run in runs)), None)
    predictions = [
        one._replace(score=f"test {with_unit(standing.test, standing.score)}")
        for standing in ranked
        if (one := picture(first[standing.number].run.examples / f"{name}.png", standing.network.label)) is not None
    ]
    if truth is not None:  # another size: of another picture
        predictions = [one for one in predictions if (one.width, one.height) == (truth.width, truth.height)]
    return [one for one in (photo, truth, *predictions) if one is not None] if predictions else []


def picture(path: Path, said: str) -> Picture | None:
    """A file as it is put into the page; None where there is none, or none that is whole."""
    kind, mime = KINDS[path.suffix]
    try:
        if path.stat().st_size > LARGEST_FILE:
            return None
        content = path.read_bytes()
        with PIL.Image.open(path, formats=[kind]) as image:
            image.load()
            width, height = image.size
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        return None
    uri = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return Picture(said, uri, width, height, exact=kind == "PNG")
