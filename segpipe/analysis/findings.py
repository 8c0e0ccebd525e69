"""What is said about one factor, and about how factors depend on each other."""

from collections.abc import Sequence
from typing import NamedTuple

from segpipe.analysis.factors import Factor, Level, named
from segpipe.analysis.formatting import (
    MINUS,
    bounds,
    count_of,
    join_words,
    more_digits,
    pluralise,
    points,
    seeds,
    signed,
)
from segpipe.analysis.ordering import Order, as_positive, between, order
from segpipe.analysis.ordering import known as finite
from segpipe.analysis.standings import FactorGrid
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import MIN_SEEDS

STATED = 6  # of a list in a sentence; the tables have all
TOO_FEW_GROUPS = "No statement about new images: the test images form too few groups."


class Finding(NamedTuple):
    """What is said about one thing. headline: the order of the levels, say; empty where there is none."""

    about: str
    headline: str
    text: str


def about_factor(factor: Factor, family: Sequence[Comparison], note: str = "") -> Finding:
    """The order of a factor's levels; which differences are real and how large, which cannot be told apart."""
    ordered = order(family)
    known = [as_positive(one) for one in family if one.estimate.trainings is not None]
    found = [as_positive(one) for one in family if finite(one)]
    sentences = []
    if known:
        sentences = decided(factor, ordered, known)
    elif found:
        held = pluralise(max(len(one.estimate.seeds) for one in family), "seed")
        gaps = [
            f"{factor.subject(one.contrast.a)} is {points(one.estimate.difference, one.score)} above "
            f"{factor.subject(one.contrast.b)}"
            for one in found
        ]
        sentences = [
            f"Observed with {held}, without intervals, in points of {found[0].score.label}: "
            f"{join_words(gaps[:STATED])}{and_more(gaps)}."
        ]
    if ordered.apart:
        names = join_words([factor.subject(name) for name in ordered.apart])
        sentences.append(f"Not ordered: {names}, because too few runs are finished to compare with the other levels.")
    left = sorted({context for one in family for context in one.contrast.dropped})
    if left:
        sentences.append(
            f"Excluded from some differences because runs are missing: {', '.join(left[:STATED])}{and_more(left)}."
        )
    return Finding(factor.label.capitalize(), ordered.label, " ".join(filter(None, [*sentences, note])))


def decided(factor: Factor, ordered: Order, known: Sequence[Comparison]) -> list[str]:
    """Where there are intervals. known: turned upward."""
    real = [one for one in known if one.significant]
    sentences = []
    if len(known) > 1:
        all_of = len(real) == len(known)
        many = f"All {len(known)} differences are" if all_of else count_of(len(real), len(known), "difference")
        sentences.append(f"{many} significant.")
    best = ordered.levels[0]  # what has an interval has a difference
    from_best = [one for other in ordered.levels[1:] if (one := between(known, best, other)) and one.significant]
    if from_best:
        parts = [f"{how_far(one)} {factor.subject(one.contrast.b)}" for one in from_best if one.contrast.a == best]
        sentences.append(
            f"{capitalised(factor, best)} is {join_words(parts[:STATED])}{and_more(parts)}, "
            f"in points of {known[0].score.label}."
        )
    sentences += [undecided(factor, one) for one in known if not one.significant][:STATED]
    hidden = [one for one in real if one not in from_best and within_tie(ordered, one)]
    if hidden:
        said = [
            f"{factor.subject(one.contrast.a)} is {how_far(one)} {factor.subject(one.contrast.b)}" for one in hidden
        ]
        sentences.append(f"Also significant: {join_words(said[:STATED])}{and_more(said)}.")
    return [*sentences, with_new_pictures(real)]


def capitalised(factor: Factor, level: Level) -> str:
    """Return a level as the first words of a sentence; the name of a level keeps its case."""
    subject = factor.subject(level)
    return subject[0].upper() + subject[1:] if factor.quantity else subject


def how_far(one: Comparison) -> str:
    """By how much, and how surely."""
    found, more = one.estimate, more_digits(one)
    gap = points(found.difference, one.score, more=more)
    return f"{gap} ({bounds(found.trainings, one.score, more=more)}) above"


def undecided(factor: Factor, one: Comparison) -> str:
    """A pair that cannot be told apart, and what it would take."""
    a, b = capitalised(factor, one.contrast.a), factor.subject(one.contrast.b)
    gap, interval = signed(one.estimate.difference, one.score), bounds(one.estimate.trainings, one.score)
    return (
        f"{a} and {b} are not significantly different: {gap} ({interval}). "
        f"Seeds needed to detect a difference of this size: {seeds(one.seeds_needed)}; of one point: "
        f"{seeds(one.seeds_needed_for())}."
    )


def within_tie(ordered: Order, one: Comparison) -> bool:
    """Whether the order's line does not show that the difference is real."""
    if {one.contrast.a, one.contrast.b} & {*ordered.apart}:
        return True
    first, last = sorted(ordered.levels.index(level) for level in (one.contrast.a, one.contrast.b))
    return ">" not in ordered.signs[first:last]


def with_new_pictures(real: Sequence[Comparison]) -> str:
    """Which of the real differences are sure on new pictures too."""
    general = [one for one in real if one.significant_on_new_images]
    if not real:
        return ""
    if all(one.estimate.pictures is None for one in real):
        return TOO_FEW_GROUPS
    if len(general) == len(real):
        same = "difference is" if len(real) == 1 else "differences are"
        return f"For new images, the same {same} significant."
    if not general:
        return "None of these differences is significant for new images."
    not_sure = [f"{one.contrast.a} above {one.contrast.b}" for one in real if not one.significant_on_new_images]
    return f"Not significant for new images: {join_words(not_sure[:STATED])}{and_more(not_sure)}."


def about_interactions(grid: FactorGrid, analysis: Analysis) -> list[Finding]:
    """Whether a factor's effect depends on another's level; the largest change of each two factors."""
    family = [one for one in analysis.interactions if one.contrast.stratum == grid.stratum]
    known = [one for one in family if one.estimate.trainings is not None]
    if not known:
        return []
    real = [one for one in known if one.significant]
    if not real:
        none = "The 1 interaction is not" if len(known) == 1 else f"None of the {len(known)} interactions is"
        text = f"{none} significant: there is no evidence that the effect of a factor depends on another factor."
        return [Finding("Interactions", "", text)]
    largest: dict[str, Comparison] = {}
    for one in sorted(real, key=lambda one: -abs(one.estimate.difference)):
        largest.setdefault(one.contrast.factor, one)
    ours = [as_positive(one) for one in analysis.marginal if one.contrast.stratum == grid.stratum]
    positive = {(one.contrast.a, one.contrast.b) for one in ours}
    many = f"{count_of(len(real), len(known), 'interaction')} significant"
    changes = "; ".join(change(one, positive, grid.factors) for one in largest.values())
    text = (
        f"{many}: the differences above depend on other factors and are means over these. The largest changes: "
        f"{changes}."
    )
    return [Finding("Interactions", "", " ".join([text, *other_orders(grid)]))]


def change(one: Comparison, positive: set[tuple[str, str]], factors: Sequence[Factor]) -> str:
    """By how much a difference changes from one level to the next. positive: pairs whose first is mostly higher."""
    one = as_positive(one)
    other = next(factor.label for factor in factors if one.contrast.factor.endswith(f" x {factor.key}"))
    a, b, there, elsewhere = one.contrast.square or ("", "", "", "")
    if (a, b) not in positive:  # a less b at one place is b less a at the other
        a, b, there, elsewhere = b, a, elsewhere, there
    gap, interval = points(one.estimate.difference, one.score), bounds(one.estimate.trainings, one.score)
    return f"the difference {a} {MINUS} {b} is {gap} points ({interval}) larger at {other} {there} than at {elsewhere}"


def other_orders(grid: FactorGrid) -> list[str]:
    """Where another level of the first factor than most often is the highest; not tested, so said as found."""
    first, *others_of = grid.factors
    best: list[tuple[str, str]] = []  # where, and the highest level there
    for levels in grid.combinations(others_of):
        found = {level: grid.at({first.key: level}, levels) for level in grid.levels(first)}
        there = {level: standing.test for level, standing in found.items() if standing is not None}
        if len(there) > 1:
            best.append((named(levels, others_of[::-1]), first.subject(max(there, key=lambda level: there[level]))))
    winners = [name for _, name in best]
    if len(set(winners)) < 2:
        return []
    usual = max(winners, key=winners.count)
    others = [f"{name} ({where})" for where, name in best if name != usual]
    said = f"{join_words(others[:STATED])}{and_more(others)}"
    return [f"The highest mean (not tested) is mostly that of {usual}, with these exceptions: {said}."]


def and_more(items: Sequence[object]) -> str:
    """How many of a list are not stated."""
    return f" and {len(items) - STATED} more" if len(items) > STATED else ""


def too_few(count: int) -> str:
    """Why there is no interval."""
    return (
        f"With {pluralise(count, 'seed')} there are no intervals (at least {MIN_SEEDS} seeds are needed, 5 are "
        f"recommended), so no difference is tested for significance."
    )
