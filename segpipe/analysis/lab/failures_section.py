"""The section on where two runs fail differently."""

from collections.abc import Sequence
from itertools import count

from segpipe.analysis.formatting import DASH, pluralise
from segpipe.analysis.lab.measured import data_text, points
from segpipe.analysis.page.blocks import Block, Example, ExampleImage, ExampleImages, Section, Text
from segpipe.analysis.page.tables import Cell, Table, number_cell
from segpipe.lab.errors import TYPES
from segpipe.lab.failures import DifferentImage, DifferentRegion, FailureMeasures
from segpipe.lab.pictures import ALONE_COLOURS, ERROR_COLOURS, Shown
from segpipe.lab.split import RunMeasures, SplitMeasures
from segpipe.metrics.bootstrap import Estimate

TITLE = "Where two runs fail differently"
DEFINITIONS = (
    "A region is a connected part of the truth with one class. It is found if at least half of its pixels get its "
    "class. A region that is not found is a missed object if most of its wrong pixels get the class of a neighbouring "
    "region (it is merged into its surroundings), else it is of a wrong class. In a region that is found, a connected "
    "patch of one wrong class is a displaced boundary if it touches a true region of that class, else a hole. Every "
    "wrong pixel has exactly one type. A predicted object where there is none is a hole in what is really there."
)


def section(measures: SplitMeasures) -> Section:
    """Return the section: for each pair of runs counts of errors, images, regions, boundaries."""
    if not measures.failures:
        return Section(
            "failures", TITLE, [Text("Give two or more runs: the first one is compared with each of the others.")]
        )
    blocks: list[Block] = [Text(DEFINITIONS)]
    numbers = count(1)  # of the examples: anchors have to be unique on the page
    by_name = {run.name: run for run in measures.runs}
    for pair in measures.failures:
        blocks.append(Text(" and ".join(pair.names), "heading"))
        if pair.reason or pair.counts is None:
            blocks.append(Text(f"Not compared. {pair.reason}"))
            continue
        blocks += pair_blocks(pair, by_name[pair.names[0]], numbers)
    return Section("failures", TITLE, blocks)


def pair_blocks(pair: FailureMeasures, run: RunMeasures, numbers: "count[int]") -> list[Block]:
    """Return the blocks of two runs. run: the first one."""
    a, b = pair.names
    blocks: list[Block] = [event_table(pair, run), pixel_table(pair, run)]
    if pair.images:
        caption = (
            f"The {pluralise(len(pair.images), 'image')} of {data_text(run)} with the most pixels that only one run "
            f"has right. Photo; truth; errors of {a} and of {b} by type (light gray: right; black: ignored); and where "
            f"only one of them is right. Click an image to enlarge it."
        )
        blocks.append(
            ExampleImages(caption, legend(run, pair), [image_example(next(numbers), one, pair) for one in pair.images])
        )
    if pair.different_regions:
        blocks.append(region_table(pair, run))
        caption = (
            f"The regions of the table with their surroundings, in the order of the table: photo, truth, errors of {a} "
            f"and of {b}, and where only one of them is right."
        )
        examples = [region_example(next(numbers), one, pair, run) for one in pair.different_regions]
        blocks.append(ExampleImages(caption, legend(run, pair), examples))
    if pair.boundaries:
        blocks.append(boundary_table(pair, run))
    return blocks


def legend(run: RunMeasures, pair: FailureMeasures) -> list[tuple[str, str]]:
    """Return names with CSS colours: classes, error types, and which run alone is right."""
    alone = [f"only {name} right" for name in pair.names]
    rows = [
        *zip(run.classes, run.palette, strict=False),
        *zip(TYPES, ERROR_COLOURS, strict=True),
        *zip(alone, ALONE_COLOURS, strict=True),
    ]
    return [(name, f"rgb({', '.join(map(str, colour))})") for name, colour in rows]


def event_table(pair: FailureMeasures, run: RunMeasures) -> Table:
    """Return the number of errors of each type by true class, a row for each run."""
    rows = [
        [
            Cell(name),
            Cell(run_name),
            number_cell(total(pair.regions, index), 0),
            *(number_cell(total(of_type, index), 0) for of_type in counts.events),
        ]
        for index, name in class_rows(run)
        for run_name, counts in zip(pair.names, pair.counts or (), strict=True)
    ]
    caption = (
        f"Number of errors of each type by true class, on {data_text(run)}. Missed objects and wrong classes are "
        f"regions; displaced boundaries and holes are patches, of any size: the next table has their pixels."
    )
    return Table(caption, ["class", "run", "regions", *TYPES], rows, 1 + len(TYPES))


def pixel_table(pair: FailureMeasures, run: RunMeasures) -> Table:
    """Return the wrong pixels of each type as a share of the pixels of the class, a row for each run."""
    rows = []
    for index, name in class_rows(run):
        pixels = total(pair.true_pixels, index)
        for run_name, counts in zip(pair.names, pair.counts or (), strict=True):
            shares = [total(of_type, index) / pixels if pixels else None for of_type in counts.pixels]
            cells = [points(Estimate(share), digits=2) for share in shares]
            rows.append([Cell(name), Cell(run_name), number_cell(pixels, 0), *cells])
    caption = (
        f"Wrong pixels of each type in percent of the class's labelled pixels, on {data_text(run)}. The types of one "
        f"run sum to its share of wrong pixels."
    )
    return Table(caption, ["class", "run", "pixels", *TYPES], rows, 1 + len(TYPES))


def class_rows(run: RunMeasures) -> list[tuple[int | None, str]]:
    """Return the index and name of each class, then None for all classes together."""
    return [*enumerate(run.classes), (None, "all")]


def total(values: Sequence[int], index: int | None) -> int:
    """Return the value of a class; None: of all classes together."""
    return sum(values) if index is None else values[index]


def example_images(shown: Shown, pair: FailureMeasures, scores: Sequence[str]) -> list[ExampleImage]:
    """Return photo, truth, the errors of both runs with their scores, and where only one is right."""
    rows = [
        ("photo", shown.photo, False, ""),
        ("truth", shown.truth, True, ""),
        (f"errors of {pair.names[0]}", shown.errors[0], True, scores[0]),
        (f"errors of {pair.names[1]}", shown.errors[1], True, scores[1]),
        ("only one is right", shown.alone, True, ""),
    ]
    return [ExampleImage(label, uri, shown.width, shown.height, exact, score) for label, uri, exact, score in rows]


def image_example(number: int, one: DifferentImage, pair: FailureMeasures) -> Example:
    """Return an image of the list as an example."""
    scores = [
        f"{points(Estimate(right)).text} % right, {points(Estimate(alone)).text} % alone"
        for right, alone in zip(one.accuracy, one.alone, strict=True)
    ]
    return Example(number, one.name, one.shown.truth, example_images(one.shown, pair, scores))


def region_example(number: int, one: DifferentRegion, pair: FailureMeasures, run: RunMeasures) -> Example:
    """Return a region of the list as an example."""
    scores = [f"{points(Estimate(right), digits=0).text} % right" for right in one.right]
    name = f"{run.classes[one.class_index]} in {one.image}"
    return Example(number, name, one.shown.truth, example_images(one.shown, pair, scores))


def region_table(pair: FailureMeasures, run: RunMeasures) -> Table:
    """Return the regions that differ most."""
    rows = [
        [
            Cell(one.image),
            Cell(run.classes[one.class_index]),
            *(Cell(kind or DASH) for kind in one.types),
            number_cell(one.pixels, 0),
            *(points(Estimate(right)) for right in one.right),
        ]
        for one in pair.different_regions
    ]
    a, b = pair.names
    caption = (
        "The regions of the truth that differ most between the runs: those that only one run finds (at least half of "
        "the pixels right) first, then by the difference in pixels. Error: the type with the most pixels; share right "
        "in percent."
    )
    columns = ["image", "class", f"error: {a}", f"error: {b}", "pixels", f"right: {a}", f"right: {b}"]
    return Table(caption, columns, rows, 3)


def boundary_table(pair: FailureMeasures, run: RunMeasures) -> Table:
    """Return the boundaries between two classes that differ most."""
    rows = [
        [
            Cell(" | ".join(run.classes[index] for index in one.classes)),
            number_cell(one.pixels, 0),
            *(points(Estimate(found)) for found in one.found),
            points(Estimate(one.found[0] - one.found[1])),
        ]
        for one in pair.boundaries
    ]
    a, b = pair.names
    caption = (
        f"The boundaries between two classes that differ most between the runs, by the number of contour pixels: share "
        f"of the true contour pixels between the two classes with a predicted contour (of any class) within one pixel, "
        f"in percent, on {data_text(run)}."
    )
    return Table(caption, ["boundary", "contour pixels", f"found: {a}", f"found: {b}", "difference"], rows, 4)
