"""The findings of the verdict on one factor, and on interactions between factors."""

from collections.abc import Sequence
from typing import NamedTuple

from segpipe.analysis.design_points import Stratum
from segpipe.analysis.factors import Factor, Level, named
from segpipe.analysis.formatting import (
    MINUS,
    count_of,
    extra_digits,
    format_difference,
    format_interval,
    format_score,
    format_seed_count,
    join_words,
    pluralise,
)
from segpipe.analysis.network_results import FactorGrid
from segpipe.analysis.ordering import Order, as_positive, comparison_of, is_known, order
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import MIN_SEEDS

STATED = 6  # items of a list in a sentence; the tables have all
TOO_FEW_GROUPS = "No statement about new images: the test images form too few groups."


class Finding(NamedTuple):
    """One finding of the verdict.

    topic: what it is about. headline: for example the order of the levels; may be empty. text: sentences.
    """

    topic: str
    headline: str
    text: str


def about_factor(factor: Factor, family: Sequence[Comparison], note: str = "") -> Finding:
    """Return the finding on a factor: the order of its levels, their differences, and what is significant.

    note: a sentence to append.
    """
    ordered = order(family)
    with_interval = [as_positive(one) for one in family if one.estimate.trainings is not None]
    observed = [as_positive(one) for one in family if is_known(one)]
    sentences = []
    if with_interval:
        sentences = interval_sentences(factor, ordered, with_interval)
    elif observed:
        seed_count = pluralise(max(len(one.estimate.seeds) for one in family), "seed")
        gap_texts = [
            f"{factor.subject(one.contrast.a)} is {format_score(one.estimate.difference, one.score)} above "
            f"{factor.subject(one.contrast.b)}"
            for one in observed
        ]
        sentences = [
            f"Observed with {seed_count}, without intervals, in points of {observed[0].score.label}: "
            f"{join_words(gap_texts[:STATED])}{and_more(gap_texts)}."
        ]
    if ordered.unordered:
        names = join_words([factor.subject(name) for name in ordered.unordered])
        sentences.append(f"Not ordered: {names}, because too few runs are finished to compare with the other levels.")
    dropped = sorted({context for one in family for context in one.contrast.dropped})
    if dropped:
        sentences.append(
            f"Excluded from some differences because runs are missing: "
            f"{', '.join(dropped[:STATED])}{and_more(dropped)}."
        )
    return Finding(factor.title, ordered.label, " ".join(filter(None, [*sentences, note])))


def interval_sentences(factor: Factor, ordered: Order, comparisons: Sequence[Comparison]) -> list[str]:
    """Return the sentences on differences with intervals. comparisons: with non-negative differences."""
    significant = [one for one in comparisons if one.significant]
    sentences = []
    if len(comparisons) > 1:
        all_of = len(significant) == len(comparisons)
        many = (
            f"{'Both' if len(comparisons) == 2 else f'All {len(comparisons)}'} differences are"
            if all_of
            else count_of(len(significant), len(comparisons), "difference")
        )
        sentences.append(f"{many} significant.")
    best = ordered.levels[0]  # not empty: a comparison with an interval has a difference
    below_best = [
        one for other in ordered.levels[1:] if (one := comparison_of(comparisons, best, other)) and one.significant
    ]
    if below_best:
        parts = [f"{gap_text(one)} {factor.subject(one.contrast.b)}" for one in below_best if one.contrast.a == best]
        sentences.append(
            f"{capitalised(factor, best)} is {join_words(parts[:STATED])}{and_more(parts)}, "
            f"in points of {comparisons[0].score.label}."
        )
    sentences += [tie_text(factor, one) for one in comparisons if not one.significant][:STATED]
    hidden = [one for one in significant if one not in below_best and is_hidden(ordered, one)]
    if hidden:
        texts = [
            f"{factor.subject(one.contrast.a)} is {gap_text(one)} {factor.subject(one.contrast.b)}" for one in hidden
        ]
        sentences.append(f"Also significant: {join_words(texts[:STATED])}{and_more(texts)}.")
    return [*sentences, new_image_sentence(significant)]


def capitalised(factor: Factor, level: Level) -> str:
    """Return a level as the first words of a sentence; the name of a level, and a key, keep their case."""
    subject = factor.subject(level)
    return subject[0].upper() + subject[1:] if factor.quantity and not factor.is_key else subject


def gap_text(one: Comparison) -> str:
    """Return a difference with its interval: ``1.2 (0.6 to 1.8) above``."""
    estimate, more = one.estimate, extra_digits(one)
    gap = format_score(estimate.difference, one.score, more=more)
    return f"{gap} ({format_interval(estimate.trainings, one.score, more=more)}) above"


def tie_text(factor: Factor, one: Comparison) -> str:
    """Return the sentence on a difference that is not significant, with the seeds that are needed to detect it."""
    a, b = capitalised(factor, one.contrast.a), factor.subject(one.contrast.b)
    gap, interval = (
        format_difference(one.estimate.difference, one.score),
        format_interval(one.estimate.trainings, one.score),
    )
    return (
        f"{a} and {b} are not significantly different: {gap} ({interval}). "
        f"Seeds needed to detect a difference of this size: {format_seed_count(one.seeds_needed)}; of one point: "
        f"{format_seed_count(one.seeds_needed_for())}."
    )


def is_hidden(ordered: Order, one: Comparison) -> bool:
    """Return whether a difference is significant although the order does not show a ``>`` between its levels."""
    if {one.contrast.a, one.contrast.b} & {*ordered.unordered}:
        return True
    first, last = sorted(ordered.levels.index(level) for level in (one.contrast.a, one.contrast.b))
    return ">" not in ordered.signs[first:last]


def new_image_sentence(significant: Sequence[Comparison]) -> str:
    """Return the sentence on which of the significant differences are also significant for new images."""
    on_new_images = [one for one in significant if one.significant_on_new_images]
    if not significant:
        return ""
    if all(one.estimate.images is None for one in significant):
        return TOO_FEW_GROUPS
    if len(on_new_images) == len(significant):
        same = "difference is" if len(significant) == 1 else "differences are"
        return f"For new images, the same {same} significant."
    if not on_new_images:
        return "None of these differences is significant for new images."
    not_sure = [f"{one.contrast.a} above {one.contrast.b}" for one in significant if not one.significant_on_new_images]
    return f"Not significant for new images: {join_words(not_sure[:STATED])}{and_more(not_sure)}."


def about_interactions(
    grid: FactorGrid | None, stratum: Stratum, factors: Sequence[Factor], analysis: Analysis
) -> list[Finding]:
    """Return the finding on interactions: the number that is significant, and the largest for each two factors.

    grid: the results of the stratum; None for the comparisons of groups. factors: of the stratum.
    """
    family = [one for one in analysis.interactions if one.contrast.stratum == stratum]
    with_interval = [one for one in family if one.estimate.trainings is not None]
    if not with_interval:
        return []
    significant = [one for one in with_interval if one.significant]
    if not significant:
        none = (
            "The 1 interaction is not"
            if len(with_interval) == 1
            else f"None of the {len(with_interval)} interactions is"
        )
        text = f"{none} significant: there is no evidence that the effect of a factor depends on another factor."
        return [Finding("Interactions", "", text)]
    largest: dict[str, Comparison] = {}
    for one in sorted(significant, key=lambda one: -abs(one.estimate.difference)):
        largest.setdefault(one.contrast.factor, one)
    marginal = [as_positive(one) for one in analysis.marginal if one.contrast.stratum == stratum]
    positive = {(one.contrast.a, one.contrast.b) for one in marginal}
    many = f"{count_of(len(significant), len(with_interval), 'interaction')} significant"
    changes = "; ".join(change_text(one, positive, factors) for one in largest.values())
    text = (
        f"{many}: the differences above depend on other factors and are means over these. The largest "
        f"{'change' if len(largest) == 1 else 'changes'}: {changes}."
    )
    return [Finding("Interactions", "", " ".join([text, *(exception_sentences(grid) if grid else [])]))]


def change_text(one: Comparison, positive: set[tuple[str, str]], factors: Sequence[Factor]) -> str:
    """Return the text on an interaction. positive: pairs (a, b) for which the mean difference a - b is positive."""
    one = as_positive(one)
    first, _, second = one.contrast.factor.partition(" x ")
    labels = {factor.key: factor.label for factor in factors}
    other = labels.get(second, second)
    a, b, level, other_level = one.contrast.square or ("", "", "", "")
    if (a, b) not in positive:  # a - b larger at one level is b - a larger at the other
        a, b, level, other_level = b, a, other_level, level
    gap, interval = format_score(one.estimate.difference, one.score), format_interval(one.estimate.trainings, one.score)
    by_key = {factor.key: factor for factor in factors}
    if (own := by_key.get(first)) is not None:
        a, b = own.subject(a), own.subject(b)
    return (
        f"the difference {a} {MINUS} {b} is {gap} points ({interval}) larger at {other} {level} than at {other_level}"
    )


def exception_sentences(grid: FactorGrid) -> list[str]:
    """Return a sentence on where another level than usual has the highest mean. This is observed, not tested."""
    first, *others_of = grid.factors
    best: list[tuple[str, str]] = []  # (setting, level with the highest mean)
    for levels in grid.combinations(others_of):
        results = {level: grid.at({first.key: level}, levels) for level in grid.levels(first)}
        scores = {level: result.test for level, result in results.items() if result is not None}
        if len(scores) > 1:
            best.append((named(levels, others_of[::-1]), first.subject(max(scores, key=lambda level: scores[level]))))
    winners = [name for _, name in best]
    if len(set(winners)) < 2:
        return []
    commonest = max(winners, key=winners.count)
    others = [f"{name} ({where})" for where, name in best if name != commonest]
    exceptions = f"{join_words(others[:STATED])}{and_more(others)}"
    return [f"The highest mean (not tested) is mostly that of {commonest}, with these exceptions: {exceptions}."]


def and_more(items: Sequence[object]) -> str:
    """Return how many items of a list are not stated; empty if all are."""
    return f" and {len(items) - STATED} more" if len(items) > STATED else ""


def no_interval_text(count: int) -> str:
    """Return the sentence on why there are no intervals. count: number of seeds."""
    return (
        f"With {pluralise(count, 'seed')} there are no intervals (at least {MIN_SEEDS} seeds are needed, 5 are "
        f"recommended), so no difference is tested for significance."
    )
