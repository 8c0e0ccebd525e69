"""The verdict: sentences generated from the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segpipe.analysis.collection import Collection
from segpipe.analysis.design_points import ALL_GROUPS
from segpipe.analysis.factors import DECODER, VIEW, Factor, labels
from segpipe.analysis.findings import (
    STATED,
    TOO_FEW_GROUPS,
    Finding,
    about_factor,
    about_interactions,
    and_more,
    no_interval_text,
)
from segpipe.analysis.flags import Flag, flag_finding, state_finding
from segpipe.analysis.formatting import (
    count_of,
    format_difference,
    format_interval,
    format_mean_std,
    format_number,
    format_score,
    join_words,
    pluralise,
)
from segpipe.analysis.network_results import FactorGrid, NetworkResult, grids
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import MIN_SEEDS
from segpipe.runs.labels import MATCHED, SMOOTHED, UNMATCHED

NO_PAIR = (
    "No two networks differ in exactly one factor. If a key was chosen for each network (a learning rate, for "
    "example), --tuned KEY compares the networks at their chosen levels."
)
VIEWS = {
    UNMATCHED: "The operators are unmodified: some have weights, others have none, so the networks also differ in size",
    SMOOTHED: "The same convolution follows every operator, so that every upsampling step has weights",
    MATCHED["params"]: "The decoder's width is chosen so that all networks have equally many parameters",
    MATCHED["multiply_adds"]: "The decoder's width is chosen so that all networks need equally many multiply-adds",
}
UNPOOLING = " Exceptions are unpooling, whose switches differ between channels, and depthwise operators."
Classes = Mapping[str, type]  # operators, fusions and refinements by import path
NOISY = 3  # times the median standard deviation over seeds


class Paragraph(NamedTuple):
    """The findings on one stratum, or (with an empty title) on all networks."""

    title: str
    findings: list[Finding]


def verdict(
    collection: Collection,
    analysis: Analysis,
    results: Sequence[NetworkResult],
    classes: Classes | None = None,
    flags: Sequence[Flag] = (),
) -> list[Paragraph]:
    """Return one paragraph on all networks, then one for each stratum.

    classes: of operators, fusions and refinements by import path; unknown classes lead to no statement. flags: of
    degenerate runs.
    """
    first = [
        state_finding(collection),
        overall(collection, analysis, results),
        flag_finding(collection, analysis, flags),
        about_tuning(collection),
        *about_roles(collection),
    ]
    paragraphs = [Paragraph("", [finding for finding in first if finding is not None])]
    if collection.outer:
        family = [one for one in analysis.marginal if one.contrast.stratum == ALL_GROUPS]
        findings = about_factors(collection.outer, family)
        findings += about_interactions(None, ALL_GROUPS, (*collection.factors, *collection.outer), analysis)
        paragraphs.append(Paragraph("All groups", findings or [Finding("Differences", "", NO_PAIR)]))
    for grid in grids(results, collection.averaged):
        findings = [Finding("View", "", view_text(grid))]
        family = [one for one in analysis.marginal if one.contrast.stratum == grid.stratum]
        findings += about_factors(collection.factors, family, function_sentence(grid, classes or {}))
        if not family and len(results) > 1:
            findings.append(Finding("Differences", "", NO_PAIR))
        findings += about_interactions(grid, grid.stratum, collection.factors, analysis)
        paragraphs.append(Paragraph(grid.label, findings))
    return paragraphs


def about_factors(factors: Sequence[Factor], family: Sequence[Comparison], fusions: str = "") -> list[Finding]:
    """Return the finding on each factor that was compared. fusions: the note on the factor that joins skips."""
    findings = []
    for factor in factors:
        comparisons = [one for one in family if one.contrast.factor == factor.key]
        if comparisons:
            findings.append(about_factor(factor, comparisons, fusions if factor.joins_skips else ""))
    return findings


def about_tuning(collection: Collection) -> Finding | None:
    """Return the finding on the levels that validation chose for each cell; None without a tuned key."""
    tuned = collection.tuned
    if tuned is None:
        return None
    how = (
        f"by validation on the tuning seeds {join_words(list(map(str, tuned.seeds)))}, which enter no comparison"
        if tuned.seeds
        else "by validation, each seed at the level that the other seeds choose; intervals are wider for that reason"
    )
    known = [(cell, cell.choice) for cell in tuned.cells if cell.choice is not None]
    sentences = [f"All networks are judged at the chosen level of {tuned.name}: chosen for each cell {how}."]
    if shares := [choice.other for _, choice in known if np.isfinite(choice.other)]:
        which = "tuning seeds" if tuned.seeds else "seeds"
        sentences.append(
            f"Resampled {which} choose another level in {100 * float(np.median(shares)):.0f} % of the draws (median "
            f"over cells; at most {100 * max(shares):.0f} %)."
        )
    if known:
        regrets = [choice.regret for _, choice in known]
        sentences.append(
            f"Regret on validation, the mIoU of each seed's best level minus that of the chosen one: "
            f"{format_score(float(np.mean(regrets)))} points on average over cells, at most "
            f"{format_score(max(regrets))}."
        )
    if edges := [f"{cell.label} ({tuned.text(choice.level)})" for cell, choice in known if cell.edge]:
        sentences.append(
            f"Chosen at the edge of the tested levels, so that a level beyond may be better: "
            f"{join_words(edges[:STATED])}{and_more(edges)}."
        )
    fewer = [cell.label for cell, choice in known if not {*tuned.seeds} <= {*choice.seeds}]
    if fewer:
        sentences.append(
            f"Chosen on a part of the tuning seeds, because runs of the others are missing: "
            f"{join_words(fewer[:STATED])}{and_more(fewer)}."
        )
    if lacking := [cell.label for cell in tuned.cells if cell.choice is None]:
        sentences.append(
            f"No level could be chosen, because runs are missing: {join_words(lacking[:STATED])}{and_more(lacking)}."
        )
    return Finding("Tuned", f"At the chosen level of {tuned.name}", " ".join(sentences))


def about_roles(collection: Collection) -> list[Finding]:
    """Return the finding on factors that are not drawn; none if all are drawn and no option was given."""
    sentences = []
    if collection.averaged:
        sentences.append(
            f"Averaged over: {join_words(labels(collection.averaged))}. Figures show means over these levels."
        )
    if groups := [factor for factor in collection.outer if factor != VIEW]:
        drawn = join_words(labels(collection.drawn))
        sentences.append(
            f"Drawn and ordered in each group: {drawn}. A group has one level of {join_words(labels(groups))}; the "
            f"levels of {'this factor' if len(groups) == 1 else 'these factors'} are compared over all groups. "
            f"--factors chooses what is drawn, --average KEY averages over a factor."
        )
    return [Finding("Factors", "", " ".join(sentences))] if sentences else []


def overall(collection: Collection, analysis: Analysis, results: Sequence[NetworkResult]) -> Finding:
    """Return the finding on which networks may be the best, or on the differences from the reference."""
    tested = [one for one in analysis.single_networks if one.estimate.trainings is not None]
    network = next((one for one in results if one.number == analysis.reference), max(results, key=lambda one: one.val))
    if analysis.reference is None and tested:
        return best_finding(tested, results)
    chosen = analysis.reference is None
    role = f"has the best validation {network.score.ranking.label}" if chosen else "was given as the reference"
    sentences = [f"This network {role}. Its test score is {test_score_text(network)}."]
    if len(collection.seeds) < MIN_SEEDS:
        sentences.append(no_interval_text(len(collection.seeds)))
    if len(results) == 1:
        sentences.append("It is the only network in the folder, so there are no comparisons.")
    elif not tested and len(collection.seeds) >= MIN_SEEDS:
        sentences.append(f"No other network has {MIN_SEEDS} seeds in common with it, so there are no comparisons.")
    elif tested:
        sentences += reference_sentences(tested)
        if len(tested) < len(results) - 1:
            few = len(results) - 1 - len(tested)
            verb = "has" if few == 1 else "have"
            sentences.append(
                f"{pluralise(few, 'other network')} {verb} too few seeds in common with it to be compared."
            )
    return Finding("Best network" if chosen else "Reference", network.network.label, " ".join(sentences))


def test_score_text(one: NetworkResult) -> str:
    """Return the mean and standard deviation of a network's test score."""
    trained = f"mean ± standard deviation over {one.seeds} seeds" if one.seeds > 1 else "one seed"
    return f"{format_mean_std(one.test, one.std, one.score)} {one.score.unit} {one.score.label} ({trained})"


def best_finding(tested: Sequence[Comparison], results: Sequence[NetworkResult]) -> Finding:
    """Return the finding on the networks that may be the best. All others are significantly worse than the best."""
    ranked_first = max(results, key=lambda one: one.val)
    candidates = sorted((one for one in tested if not one.significant), key=lambda one: -one.estimate.difference)
    others = len(tested) - len(candidates)
    names = [network_text(one) for one in candidates]
    introduction = (
        f"Test {ranked_first.score.label} minus that of the best other network, in points, with simultaneous intervals:"
    )
    if len(candidates) == 1:
        headline = candidates[0].contrast.a
        sentences = [
            f"It is significantly better than {pluralise(others, 'other network')}. {introduction} {names[0]}."
        ]
    else:
        headline = f"{len(candidates)} of {len(tested)} networks may be the best"
        sentences = [f"{introduction} {join_words(names[:STATED])}{and_more(names)}."]
        if others:
            worse = "The other network is" if others == 1 else f"The other {others} networks are"
            sentences.append(f"{worse} significantly worse than the best.")
    sentences.append(new_image_sentence(tested, len(candidates)))
    if len(candidates) > 1:
        sentences += high_variance_sentences(candidates, results)
    comparison = next((one for one in tested if one.contrast.a == ranked_first.network.label), None)
    judgement = ", significantly below the best" if comparison is not None and comparison.significant else ""
    sentences.append(
        f"The best network on validation is {ranked_first.network.label}. Its test score is "
        f"{test_score_text(ranked_first)}{judgement}."
    )
    compared = {one.contrast.a for one in tested}
    not_compared = [one.network.label for one in results if one.network.label not in compared]
    if not_compared:
        sentences.append(
            f"Not compared, with too few seeds in common: {join_words(not_compared[:STATED])}{and_more(not_compared)}."
        )
    return Finding("Best network", headline, " ".join(filter(None, sentences)))


def high_variance_sentences(candidates: Sequence[Comparison], results: Sequence[NetworkResult]) -> list[str]:
    """Return a sentence on candidates whose standard deviation over seeds is far above the median; empty if none is."""
    median = float(np.nanmedian([one.std for one in results]))
    noisy = [
        f"{one.contrast.a} ({format_score(result.std, one.score)})"
        for one in candidates
        for result in results
        if result.network.label == one.contrast.a and result.std > NOISY * median
    ]
    if not noisy:
        return []
    return [
        f"Standard deviation over seeds far above the median ({format_score(median, results[0].score)} points): "
        f"{join_words(noisy[:STATED])}{and_more(noisy)}. More seeds are needed to decide whether "
        f"{'this network' if len(noisy) == 1 else 'these networks'} may be the best."
    ]


def new_image_sentence(tested: Sequence[Comparison], num_candidates: int) -> str:
    """Return the sentence on how many networks may be the best for new images.

    num_candidates: those on these images.
    """
    if all(one.estimate.images is None for one in tested):
        return TOO_FEW_GROUPS
    only_there = [one for one in tested if one.significant and not one.significant_on_new_images]
    if not only_there:
        return "This also holds for new images." if num_candidates < len(tested) else ""
    names = join_words([one.contrast.a for one in only_there][:STATED])
    return f"For new images, {names}{and_more(only_there)} may also be the best."


def reference_sentences(tested: Sequence[Comparison]) -> list[str]:
    """Return the sentences on the differences between single networks and a named reference."""
    below = sum(one.significant and one.estimate.difference < 0 for one in tested)
    above = [network_text(one) for one in tested if one.significant and one.estimate.difference > 0]
    level = [network_text(one) for one in tested if not one.significant]
    worse = f"{count_of(below, len(tested), 'other network')} significantly worse."
    only = f"The other network is {'' if below else 'not '}significantly worse."
    sentences = [only if len(tested) == 1 else worse]
    if above:
        sentences.append(f"Significantly better: {join_words(above[:STATED])}{and_more(above)}.")
    if level:
        sentences.append(f"Not significantly different: {join_words(level[:STATED])}{and_more(level)}.")
    return sentences


def network_text(one: Comparison) -> str:
    """Return a network with its difference from the reference, or from the best of the others, and the interval."""
    gap, interval = (
        format_difference(one.estimate.difference, one.score),
        format_interval(one.estimate.trainings, one.score),
    )
    return f"{one.contrast.a} ({gap}, {interval})"


def view_text(grid: FactorGrid) -> str:
    """Return the sentence on the view, with the range of the networks' parameters.

    If all networks have one operator and the same width, the view says nothing about them.
    """
    view = grid.stratum[1]
    sizes = [result.cost["parameters"] / 1e6 for result in grid.results.values()]
    known = np.isfinite(sizes).all()
    smallest, largest = format_number(min(sizes), 2), format_number(max(sizes), 2)
    if view in MATCHED.values() or (DECODER in grid.factors and len(grid.levels(DECODER)) > 1):
        text = VIEWS.get(view, view)
        return f"{text} ({smallest} to {largest} M parameters)." if known else f"{text}."
    if not known:
        return "The networks' sizes are not recorded."
    sizes_text = f"{smallest} M" if smallest == largest else f"{smallest} to {largest} M"
    return f"The networks have {sizes_text} parameters."


def function_sentence(grid: FactorGrid, classes: Classes) -> str:
    """Return a sentence on whether fusions that use skips can represent different functions; empty if nothing is known.

    A sum is a concatenation whose 1x1 convolution has the weights 1. So the two are one class of functions where each
    step is linear: the refinement is at most a 1x1 convolution, and the operator commutes with a 1x1 convolution, so
    that it makes no difference whether channels are mixed before it or after it. An unknown class is not linear.
    """
    configs = [run.config for result in grid.results.values() for run in result.network.runs.values()]
    refine = node_of(configs[0], "model", "refine")
    if any(node_of(config, "model", "refine").get("_target_") != refine.get("_target_") for config in configs):
        return ""
    kind = class_of(refine, classes)
    fusions = {
        name: cls for name, cls in classes_by_name(configs, "fusion", classes).items() if has_property(cls, "uses_skip")
    }
    attended = {node.get("name") for config in configs if (node := node_of(config, "fusion")).get("attention")}
    linear = {name: cls for name, cls in fusions.items() if has_property(cls, "linear") and name not in attended}
    initials = {name: getattr(cls, "initial", None) for name, cls in linear.items()}
    added = [name for name, initial in initials.items() if initial == "sum"]
    joined = [name for name, initial in initials.items() if initial == "concat"]
    if has_property(kind, "convolves"):
        return nonlinear_sentence(added, joined) if refine.get("activation", True) else ""
    operators = classes_by_name(configs, "decoder", classes)
    nodes = [node_of(config, "decoder") for config in configs]
    unmixed = {node.get("name") for node in nodes if node.get("depthwise") or node.get("residual")}
    exceptions = {name: cls for name, cls in operators.items() if not has_property(cls, "linear") or name in unmixed}
    if not has_property(kind, "linear") or len(initials) < 2 or len(exceptions) == len(operators):
        return ""
    other_linear = [name for name in initials if name not in (*added, *joined)]
    initialisation = (
        f", and the convolution after {join_words(joined)} is initialised as the sum" if added and joined else ""
    )
    return (
        f"In this linear decoder, {join_words([*added, *other_linear, *joined])} can represent the same "
        f"functions{initialisation}: only the optimisation can make a difference.{exceptions_text(exceptions)}"
    )


def nonlinear_sentence(added: list[str], joined: list[str]) -> str:
    """Return the sentence on functions of a concatenation that a sum cannot represent.

    added, joined: names of fusions.
    """
    if not added or not joined:
        return ""
    return (
        f"A convolution with an activation follows each fusion, so {join_words(joined)} can represent functions that "
        f"{join_words(added)} cannot."
    )


def exceptions_text(operators: Mapping[str, type | None]) -> str:
    """Return the operators for which this does not hold. operators: those that are not known to be linear."""
    others = [name for name, cls in operators.items() if not has_property(cls, "needs_pooling")]
    text = UNPOOLING if len(others) < len(operators) else ""
    if others:
        are = "is" if len(others) == 1 else "are"
        text += f" This does not hold for {join_words(others)}, which {are} not known to be linear."
    return text


def classes_by_name(configs: Sequence[Mapping[str, Any]], group: str, classes: Classes) -> dict[str, type | None]:
    """Return the choices of a config group by name, in order of occurrence, with their classes."""
    classes_found: dict[str, type | None] = {}
    for config in configs:
        node = node_of(config, group)
        classes_found.setdefault(str(node.get("name")), class_of(node, classes))
    return classes_found


def node_of(config: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """Return a node of a configuration; empty if there is none."""
    node: Any = config
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def class_of(node: Mapping[str, Any], classes: Classes) -> type | None:
    """Return the class of a node's ``_target_``; None if it is unknown."""
    return classes.get(str(node.get("_target_")))


def has_property(cls: type | None, attribute: str) -> bool:
    """Return whether a class attribute is True; False for an unknown class."""
    return getattr(cls, attribute, False) is True
