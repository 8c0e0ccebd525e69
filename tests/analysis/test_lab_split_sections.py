"""The sections on a split: tables that fit their headings, captions, dashes for runs without numbers."""

import html
import re

import numpy as np
import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined
from support.planes import CLASSES, blocks, drawn, ignore, planes

from segpipe.analysis.lab import failures_section, probes_section, skips_section
from segpipe.analysis.lab.measured import data_text, interval_text, points
from segpipe.lab.failures import FailureMeasures, compare
from segpipe.lab.probes import measure_probes
from segpipe.lab.receptive_field import measure_fields
from segpipe.lab.skips import measure_skips
from segpipe.lab.split import RunMeasures, SplitMeasures
from segpipe.metrics.bootstrap import Estimate

NAMES = ["<b>sky</b>", "road", "car"]
PALETTE = [(10, 10, 10), (200, 0, 0), (0, 200, 0)]
MASKS = [blocks(seed, (16, 24)) for seed in range(4)]


def run_of(name, network, groups):
    samples = [drawn(mask) for mask in MASKS]
    given = {"groups": groups, "num_classes": CLASSES, "advance": ignore}
    return RunMeasures(
        name, data="shapes", split="test", images=4, total=9, fit_split="val", resampled="images",
        groups=len(set(groups)), classes=NAMES, palette=PALETTE,
        skips=measure_skips(network, samples, **given),
        fields=measure_fields(network, samples, advance=ignore),
        probes=measure_probes(network, network, fit=samples, test=samples, **given),
    )  # fmt: skip


@pytest.fixture(scope="module")
def measures():
    other = [np.where(mask == 2, 0, mask).astype(np.uint8) for mask in MASKS]
    failures = compare(
        (lambda index: MASKS[index].astype(np.uint8), lambda index: other[index]),
        lambda index: drawn(MASKS[index]),
        run_names=("a", "b"), image_names=["1", "2", "3", "4"], num_classes=CLASSES, palette=PALETTE, advance=ignore,
    )  # fmt: skip
    runs = [
        run_of("a", planes((1, 2, 4), deep=1.0), list("1234")),
        run_of("b", planes((1, 2), deep=1.0), list("1122")),
        RunMeasures("c", "the weights were not kept"),
    ]
    return SplitMeasures("test", runs, [failures, FailureMeasures(("a", "c"), "c: the weights were not kept")])


SECTIONS = [skips_section.section, skips_section.fields_section, probes_section.section, failures_section.section]
ALL_REASONS = SplitMeasures("test", [RunMeasures("c", "no weights")], [])


def every_block(blocks):
    for block in blocks:
        yield block
        if block.kind == "fold":
            yield from every_block(block.blocks)


def rendered(section):
    environment = Environment(
        loader=PackageLoader("segpipe.analysis.page", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("inspect.html.j2").render(title="t", subtitle="s", sections=[section])


@pytest.mark.parametrize("section", SECTIONS, ids=lambda function: f"{function.__module__[21:]}.{function.__name__}")
def test_tables_fit_and_everything_has_a_caption(section, measures):
    made = section(measures)
    found = list(every_block(made.blocks))
    tables = [block for block in found if block.kind == "table"]
    assert tables
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert 0 < table.numeric < len(table.columns)
    for block in found:
        if block.kind in ("table", "figure", "images"):
            assert len(block.caption) > 80
    page = rendered(made)
    assert "<b>sky" not in page
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("section", SECTIONS[:3])
def test_a_run_without_weights_has_its_reason_and_dashes(section, measures):
    made = section(measures)
    text = html.unescape(rendered(made))
    assert "c: the weights were not kept" in text
    if section is not skips_section.fields_section:
        table = next(block for block in every_block(made.blocks) if block.kind == "table")
        assert [cell.text for cell in table.rows[-1]][:2] == ["c", "\N{EN DASH}"]
    alone = section(ALL_REASONS)
    assert "c: no weights" in rendered(alone)
    assert not [block for block in every_block(alone.blocks) if block.kind in ("table", "figure")]


def test_a_pair_that_cannot_be_compared_says_why(measures):
    assert "Not compared. c: the weights were not kept" in rendered(failures_section.section(measures))
    assert "two or more runs" in rendered(failures_section.section(ALL_REASONS))


def test_numbers_are_those_of_the_measures(measures):
    table = skips_section.losses_table(measures)
    skip = measures.runs[0].skips.skips[0]
    row = [cell.text for cell in table.rows[0]]
    assert row[:3] == ["a", "stride 2", "zero"]
    assert table.rows[0][3].sort == pytest.approx(100 * skip.losses[0].miou.value)
    energy = skips_section.energy_table(measures)
    assert energy.rows[0][2].sort == pytest.approx(100 * skip.energy.value)
    events = failures_section.event_table(measures.failures[0], measures.runs[0])
    lost = sum(measures.failures[0].counts[1].events[0])
    assert [cell.text for cell in events.rows[-1]][:2] == ["all", "b"]
    assert events.rows[-1][events.columns.index("missed object")].text == str(lost)
    probes = probes_section.probes_table(measures)
    assert probes.rows[0][1].text == "encoder, stride 1"
    assert probes.rows[0][5].sort == pytest.approx(100)


def test_intervals_say_what_was_resampled():
    run = RunMeasures("a", data="camvid", split="test", images=40, total=233, resampled="images", groups=2)
    assert data_text(run, run) == "40 of 233 images of camvid (test)"
    assert "2 groups (clips), too few" in interval_text(run)
    few = RunMeasures("a", images=40, resampled="groups", groups=5)
    assert "5 groups of images (clips) resampled" in interval_text(few)
    single = RunMeasures("a", data="shapes", split="val", images=1, total=1, resampled="images", groups=1)
    assert data_text(single) == "1 image of shapes (val)"
    assert "images resampled; fewer than three" in interval_text(single)


def test_points():
    assert points(Estimate(0.1234, 0.1, -0.05)).text == "12.3 (10.0 to \N{MINUS SIGN}5.0)"
    assert points(Estimate(0.5)).text == "50.0"
    assert points(None).text == points(Estimate(None)).text == "\N{EN DASH}"
