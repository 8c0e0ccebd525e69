"""The section with the maps of each step, coarse to fine."""

from collections.abc import Iterator, Sequence

import numpy as np

from segpipe.analysis.formatting import DASH
from segpipe.analysis.lab.pictures import mask_to_rgb, shown
from segpipe.analysis.page.blocks import Block, ExampleImage, Fold, Pictures, Section, Text
from segpipe.lab.climb import AFTER_FUSION, AFTER_UPSAMPLING, Rung
from segpipe.lab.colours import map_to_rgb, photo
from segpipe.lab.facts import ImageFacts, Inspection, ShownImage

RULE = (
    "Each image is one channel of a map of the decoder, at the map's own resolution; the page only enlarges it. The "
    "channel is the one with the highest share of the map's energy on the objects: the pixels that the network "
    "predicts as another class than the most frequent one. Energy is the squared deviation from the channel's mean. "
    "Maps with negative values are blue below 0, white at 0 and red above; maps without them are black at 0 and bright "
    "where they are large. From left to right the map gets finer. Position and shape come first, detail last (Noh et "
    "al. 2015, Fig. 4)."
)
CLASSES = 6  # of the score maps on the page, those with the largest predicted area


def section(inspection: Inspection) -> Section:
    """Return the climb of every run for every image."""
    blocks: list[Block] = [Text(RULE)]
    for number, image in enumerate(inspection.images):
        for run in inspection.runs:
            blocks.append(Text(f"{image.name}: {run.label}", "heading"))
            if run.reason:
                blocks.append(Text(f"{DASH} {run.reason}"))
                continue
            facts = run.images[number]
            caption = "The image, the decoder's maps from coarse to fine, and the prediction."
            blocks.append(Pictures(caption, list(strip(inspection, image, facts))))
            if facts.score_maps:
                blocks.append(score_maps(inspection, facts, run.label))
    return Section("climb", "The climb: from coarse to fine", blocks)


def strip(inspection: Inspection, image: ShownImage, facts: ImageFacts) -> Iterator[ExampleImage]:
    """Yield the image, the maps of each step, the prediction, and the truth if it is known."""
    yield shown(photo(image.image), "image", note=f"{image.image.shape[0]} x {image.image.shape[1]}", kind="JPEG")
    for rung in facts.rungs:
        label = f"{rung.place}, {rung.slot}"
        yield shown(map_to_rgb(rung.values), label, note=describe(rung))
    yield shown(mask_to_rgb(facts.prediction, inspection.palette), "prediction")
    if image.truth is not None:
        yield shown(mask_to_rgb(image.truth, inspection.palette), "ground truth")


def describe(rung: Rung) -> str:
    """Return the size of a map, its channel, and the channel's share."""
    height, width = rung.values.shape
    return f"{height} x {width}, channel {rung.channel} of {rung.channels}, {rung.share:.0%} of the energy"


def score_maps(inspection: Inspection, facts: ImageFacts, label: str) -> Fold:
    """Return the score map of each class before and after each skip is added, for a decoder of class scores."""
    areas = np.bincount(facts.prediction.ravel(), minlength=len(inspection.classes))
    classes = [int(index) for index in np.argsort(-areas, kind="stable")[:CLASSES] if areas[index]]
    pictures = [
        shown(map_to_rgb(rung.maps[index]), inspection.classes[index], note=f"{rung.place}, {rung.slot}")
        for index in classes
        for rung in around_skips(facts.rungs)
        if rung.maps is not None
    ]
    caption = (
        f"{label}: the score of each class, before a skip is fused and after it; only the {len(classes)} classes with "
        f"the largest predicted area. The decoder's channels are class scores, as in FCN (Long et al. 2015, section "
        f"4.2): red where the class is likely, blue where it is not."
    )
    return Fold(f"Class scores before and after each skip: {label}", [Pictures(caption, pictures)])


def around_skips(rungs: Sequence[Rung]) -> list[Rung]:
    """Return the maps before and after each fusion with a skip; all maps after upsampling where there is none."""
    fused = {rung.place for rung in rungs if rung.slot == AFTER_FUSION}
    kept = [rung for rung in rungs if rung.place in fused and rung.slot in (AFTER_UPSAMPLING, AFTER_FUSION)]
    return kept or [rung for rung in rungs if rung.slot == AFTER_UPSAMPLING]
