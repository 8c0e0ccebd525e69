"""The page of segpipe.inspect: its sections in order, and the HTML."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from segpipe.analysis.formatting import pluralise
from segpipe.analysis.lab import (
    checkerboard_section,
    climb_section,
    content_section,
    failures_section,
    kernels_section,
    probes_section,
    skips_section,
    switches_section,
)
from segpipe.analysis.page.blocks import Section, Text
from segpipe.lab.facts import Inspection
from segpipe.lab.split import SplitMeasures


def sections(inspection: Inspection) -> list[Section]:
    """Return the sections that need single images, or none: the climb, switches, kernels, checkerboards."""
    return [
        *([climb_section.section(inspection), switches_section.section(inspection)] if inspection.images else []),
        kernels_section.section(inspection),
        *([content_section.section(inspection)] if inspection.images else []),
        checkerboard_section.section(inspection),
    ]


def split_sections(measures: SplitMeasures) -> list[Section]:
    """Return the sections that need a data set, for each kind of measure."""
    return [
        switches_section.split_section(measures),
        content_section.split_section(measures),
        skips_section.section(measures),
        skips_section.fields_section(measures),
        probes_section.section(measures),
        failures_section.section(measures),
    ]


def render(inspection: Inspection, more: Sequence[Section], *, command: str) -> str:
    """Return the page as self-contained HTML. more: sections after those of single images. command: that made it."""
    method = Section(
        "method",
        "Method",
        [Text("docs/lab.md defines every number of this page. Command:"), Text(command, "command")],
    )
    runs = pluralise(len(inspection.runs), "run")
    subtitle = f"{runs}: {', '.join(run.label for run in inspection.runs)}. Images: {image_names(inspection)}."
    loader = PackageLoader("segpipe.analysis.page", ".")
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("inspect.html.j2").render(
        title="What each decoder does", subtitle=subtitle, sections=[*sections(inspection), *more, method]
    )


def image_names(inspection: Inspection) -> str:
    """Return the names of the images."""
    return ", ".join(image.name for image in inspection.images) or "none"
