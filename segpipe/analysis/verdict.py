"""The answer in plain words, made from the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segpipe.analysis.collect import Collection
from segpipe.analysis.design_points import MATCHED, SMOOTHED, UNMATCHED
from segpipe.analysis.findings import (
    STATED,
    TOO_FEW_GROUPS,
    Finding,
    about_factor,
    about_interactions,
    and_more,
    too_few,
)
from segpipe.analysis.formatting import bounds, count_of, join_words, number, pluralise, points, signed, spread
from segpipe.analysis.standings import FactorGrid, NetworkResult, grids
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import MIN_SEEDS

VIEWS = {
    UNMATCHED: "The operators are unmodified: some have weights, others have none, so the networks also differ in size",
    SMOOTHED: "The same convolution follows every operator, so that every upsampling step has weights",
    MATCHED["params"]: "The decoder's width is chosen so that all networks have equally many parameters",
    MATCHED["multiply_adds"]: "The decoder's width is chosen so that all networks need equally many multiply-adds",
}
UNPOOLING = " Exceptions are unpooling, whose switches differ between channels, and depthwise operators."
Classes = Mapping[str, type]  # by their import path: of operators, fusions and refinements, for what they say they are
NOISY = 3  # times the usual deviation over seeds


class Paragraph(NamedTuple):
    """What is said about one stratum, or (title empty) about all networks."""

    title: str
    findings: list[Finding]


def verdict(
    collection: Collection, analysis: Analysis, found: Sequence[NetworkResult], classes: Classes | None = None
) -> list[Paragraph]:
    """One paragraph for all networks, then one for each stratum.

    classes: of operators, fusions and refinements; of what is not among them nothing is said.
    """
    paragraphs = [Paragraph("", [overall(collection, analysis, found)])]
    for grid in grids(found):
        findings = [Finding("View", "", view_of(grid))]
        family = [one for one in analysis.marginal if one.contrast.stratum == grid.stratum]
        for factor in grid.factors:
            looked_at = [one for one in family if one.contrast.factor == factor.key]
            if looked_at:
                findings.append(
                    about_factor(factor, looked_at, functions(grid, classes or {}) if factor.joins_skips else "")
                )
        if not family:
            findings.append(Finding("Differences", "", "No two networks differ in exactly one factor."))
        findings += about_interactions(grid, analysis)
        paragraphs.append(Paragraph(grid.label, findings))
    return paragraphs


def overall(collection: Collection, analysis: Analysis, found: Sequence[NetworkResult]) -> Finding:
    """Which networks may be the best; or which differ from the reference, where one was named."""
    tested = [one for one in analysis.cells if one.estimate.trainings is not None]
    own = next((one for one in found if one.number == analysis.reference), max(found, key=lambda one: one.val))
    if analysis.reference is None and tested:
        return best_of(tested, found)
    chosen = analysis.reference is None
    how = f"has the best validation {own.score.label}" if chosen else "was given as the reference"
    sentences = [f"This network {how}. Its test score is {on_the_test(own)}."]
    if len(collection.seeds) < MIN_SEEDS:
        sentences.append(too_few(len(collection.seeds)))
    if len(found) == 1:
        sentences.append("It is the only network in the folder, so there are no comparisons.")
    elif not tested and len(collection.seeds) >= MIN_SEEDS:
        sentences.append(f"No other network has {MIN_SEEDS} seeds in common with it, so there are no comparisons.")
    elif tested:
        sentences += against(tested)
        if len(tested) < len(found) - 1:
            few = len(found) - 1 - len(tested)
            verb = "has" if few == 1 else "have"
            sentences.append(
                f"{pluralise(few, 'other network')} {verb} too few seeds in common with it to be compared."
            )
    return Finding("Best network" if chosen else "Reference", own.network.label, " ".join(sentences))


def on_the_test(one: NetworkResult) -> str:
    """A network's score."""
    trained = f"mean ± standard deviation over {one.seeds} seeds" if one.seeds > 1 else "one seed"
    return f"{spread(one.test, one.deviation, one.score)} {one.score.unit} {one.score.label} ({trained})"


def best_of(tested: Sequence[Comparison], found: Sequence[NetworkResult]) -> Finding:
    """The set that may be the best, on the test alone; all others are really worse than the best."""
    own = max(found, key=lambda one: one.val)
    may = sorted((one for one in tested if not one.significant), key=lambda one: -one.estimate.difference)
    others = len(tested) - len(may)
    names = [described(one) for one in may]
    how = f"Test {own.score.label} minus that of the best other network, in points, with simultaneous intervals:"
    if len(may) == 1:
        headline = may[0].contrast.a
        sentences = [f"It is significantly better than {pluralise(others, 'other network')}. {how} {names[0]}."]
    else:
        headline = f"{len(may)} of {len(tested)} networks may be the best"
        sentences = [f"{how} {join_words(names[:STATED])}{and_more(names)}."]
        if others:
            worse = "The other network is" if others == 1 else f"The other {others} networks are"
            sentences.append(f"{worse} significantly worse than the best.")
    sentences.append(of_new_pictures(tested, len(may)))
    if len(may) > 1:
        sentences += scattered(may, found)
    known = next((one for one in tested if one.contrast.a == own.network.label), None)
    judged = ", significantly below the best" if known is not None and known.significant else ""
    sentences.append(
        f"The best network on validation is {own.network.label}. Its test score is {on_the_test(own)}{judged}."
    )
    compared = {one.contrast.a for one in tested}
    few = [one.network.label for one in found if one.network.label not in compared]
    if few:
        sentences.append(f"Not compared, with too few seeds in common: {join_words(few[:STATED])}{and_more(few)}.")
    return Finding("Best network", headline, " ".join(filter(None, sentences)))


def scattered(may: Sequence[Comparison], found: Sequence[NetworkResult]) -> list[str]:
    """Which of those that may be the best are among them for their noise."""
    usual = float(np.nanmedian([one.deviation for one in found]))
    noisy = [
        f"{one.contrast.a} ({points(standing.deviation, one.score)})"
        for one in may
        for standing in found
        if standing.network.label == one.contrast.a and standing.deviation > NOISY * usual
    ]
    if not noisy:
        return []
    return [
        f"Standard deviation over seeds far above the median ({points(usual, found[0].score)} points): "
        f"{join_words(noisy[:STATED])}{and_more(noisy)}. More seeds are needed to decide whether "
        f"{'this network' if len(noisy) == 1 else 'these networks'} may be the best."
    ]


def of_new_pictures(tested: Sequence[Comparison], may: int) -> str:
    """How many may be the best on new pictures too."""
    if all(one.estimate.pictures is None for one in tested):
        return TOO_FEW_GROUPS
    more = [one for one in tested if one.significant and not one.significant_on_new_images]
    if not more:
        return "This also holds for new images." if may < len(tested) else ""
    said = join_words([one.contrast.a for one in more][:STATED])
    return f"For new images, {said}{and_more(more)} may also be the best."


def against(tested: Sequence[Comparison]) -> list[str]:
    """What the single cells say of a reference that was named."""
    below = sum(one.significant and one.estimate.difference < 0 for one in tested)
    above = [described(one) for one in tested if one.significant and one.estimate.difference > 0]
    level = [described(one) for one in tested if not one.significant]
    sentences = [f"{count_of(below, len(tested), 'other network')} significantly worse."]
    if above:
        sentences.append(f"Significantly better: {join_words(above[:STATED])}{and_more(above)}.")
    if level:
        sentences.append(f"Not significantly different: {join_words(level[:STATED])}{and_more(level)}.")
    return sentences


def described(one: Comparison) -> str:
    """A single cell, with its difference from the reference, or from the best of the others."""
    gap, interval = signed(one.estimate.difference, one.score), bounds(one.estimate.trainings, one.score)
    return f"{one.contrast.a} ({gap}, {interval})"


def view_of(grid: FactorGrid) -> str:
    """The view taken, and what the networks in it have."""
    text = VIEWS.get(grid.stratum[1], grid.stratum[1])
    sizes = [standing.cost["parameters"] / 1e6 for standing in grid.of.values()]
    if np.isfinite(sizes).all():
        text += f" ({number(min(sizes), 2)} to {number(max(sizes), 2)} M parameters)"
    return f"{text}."


def functions(grid: FactorGrid, classes: Classes) -> str:
    """Whether fusions that use skips can differ in what the network is able to compute. An unknown class is not linear.

    A sum is a concatenation whose 1x1 convolution has the weights 1. So the two are one class of functions where each
    step is linear: the refinement is at most a 1x1 convolution, and the operator commutes with a 1x1 convolution, so
    that it makes no difference whether channels are mixed before it or behind it.
    """
    configs = [run.config for standing in grid.of.values() for run in standing.network.runs.values()]
    refine = node_of(configs[0], "model", "refine")
    kind = class_of(refine, classes)
    fusions = {name: cls for name, cls in parts(configs, "fusion", classes).items() if says(cls, "uses_skip")}
    starts = {name: getattr(cls, "initial", None) for name, cls in fusions.items() if says(cls, "linear")}
    added = [name for name, initial in starts.items() if initial == "sum"]
    joined = [name for name, initial in starts.items() if initial == "concat"]
    if says(kind, "convolves"):
        return other_functions(added, joined) if refine.get("activation", True) else ""
    operators = parts(configs, "decoder", classes)
    depthwise = {node.get("name") for config in configs if (node := node_of(config, "decoder")).get("depthwise")}
    apart = {name: cls for name, cls in operators.items() if not says(cls, "linear") or name in depthwise}
    if not says(kind, "linear") or len(starts) < 2 or len(apart) == len(operators):
        return ""
    others = [name for name in starts if name not in (*added, *joined)]
    start = f", and the convolution after {join_words(joined)} is initialised as the sum" if added and joined else ""
    return (
        f"In this linear decoder, {join_words([*added, *others, *joined])} can represent the same functions{start}: "
        f"only the optimisation can make a difference.{excepted(apart)}"
    )


def other_functions(added: list[str], joined: list[str]) -> str:
    """What a concatenation can do that a sum cannot. added, joined: the names of such fusions."""
    if not added or not joined:
        return ""
    return (
        f"A convolution with an activation follows each fusion, so {join_words(joined)} can represent functions that "
        f"{join_words(added)} cannot."
    )


def excepted(operators: Mapping[str, type | None]) -> str:
    """For which operators this does not hold. operators: those that are not linear, or not known to be."""
    others = [name for name, cls in operators.items() if not says(cls, "needs_pooling")]
    text = UNPOOLING if len(others) < len(operators) else ""
    if others:
        are = "is" if len(others) == 1 else "are"
        text += f" This does not hold for {join_words(others)}, which {are} not known to be linear."
    return text


def parts(configs: Sequence[Mapping[str, Any]], group: str, classes: Classes) -> dict[str, type | None]:
    """The choices of a config group by name, in the order in which they occur, with their classes."""
    found: dict[str, type | None] = {}
    for config in configs:
        node = node_of(config, group)
        found.setdefault(str(node.get("name")), class_of(node, classes))
    return found


def node_of(config: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """A node of a configuration; empty where there is none."""
    found: Any = config
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def class_of(node: Mapping[str, Any], classes: Classes) -> type | None:
    """The class of a node's ``_target_``; None where it is not known."""
    return classes.get(str(node.get("_target_")))


def says(cls: type | None, attribute: str) -> bool:
    """Whether a class says so of itself; an unknown one says nothing."""
    return getattr(cls, attribute, False) is True
