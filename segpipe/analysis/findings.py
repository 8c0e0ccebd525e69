"""What is said about one factor, and about how factors depend on each other."""

from collections.abc import Sequence
from typing import NamedTuple

from segpipe.analysis.factors import Factor, named
from segpipe.analysis.formatting import bounds, join_words, more_digits, pluralise, points, seeds, signed
from segpipe.analysis.ordering import Order, as_positive, between, order
from segpipe.analysis.ordering import known as finite
from segpipe.analysis.standings import FactorGrid
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import MIN_SEEDS

STATED = 6  # of a list in a sentence; the tables have all


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
            f"{one.contrast.a} is {points(one.estimate.difference, one.score)} above {one.contrast.b}" for one in found
        ]
        sentences = [f"As found with {held}, without an interval: {join_words(gaps[:STATED])}{and_more(gaps)}."]
    if ordered.apart:
        names = join_words([factor.subject(name) for name in ordered.apart])
        sentences.append(f"Not ordered: {names}. Too few runs are finished to compare with the other levels.")
    left = sorted({context for one in family for context in one.contrast.dropped})
    if left:
        sentences.append(f"Left out of some differences for missing runs: {', '.join(left[:STATED])}{and_more(left)}.")
    return Finding(factor.label.capitalize(), ordered.label, " ".join(filter(None, [*sentences, note])))


def decided(factor: Factor, ordered: Order, known: Sequence[Comparison]) -> list[str]:
    """Where there are intervals. known: turned upward."""
    real = [one for one in known if one.significant]
    sentences = []
    if len(known) > 1:
        many = f"All {len(known)}" if len(real) == len(known) else f"{len(real)} of {len(known)}"
        sentences.append(f"{many} differences {'is' if len(real) == 1 else 'are'} real.")
    best = ordered.levels[0]  # what has an interval has a difference
    from_best = [one for other in ordered.levels[1:] if (one := between(known, best, other)) and one.significant]
    if from_best:
        parts = [f"{how_far(one)} {one.contrast.b}" for one in from_best if one.contrast.a == best]
        sentences.append(
            f"{factor.subject(best)} is, in points of {known[0].score.label}, "
            f"{join_words(parts[:STATED])}{and_more(parts)}."
        )
    sentences += [undecided(factor, one) for one in known if not one.significant][:STATED]
    hidden = [one for one in real if one not in from_best and within_tie(ordered, one)]
    if hidden:
        said = [f"{one.contrast.a} {how_far(one)} {one.contrast.b}" for one in hidden]
        sentences.append(f"Real all the same: {join_words(said[:STATED])}{and_more(said)}.")
    return [*sentences, with_new_pictures(real)]


def how_far(one: Comparison) -> str:
    """By how much, and how surely."""
    found, more = one.estimate, more_digits(one)
    gap = points(found.difference, one.score, more=more)
    return f"{gap} ({bounds(found.trainings, one.score, more=more)}) above"


def undecided(factor: Factor, one: Comparison) -> str:
    """A pair that cannot be told apart, and what it would take."""
    a, b = factor.subject(one.contrast.a), one.contrast.b
    gap, interval = signed(one.estimate.difference, one.score), bounds(one.estimate.trainings, one.score)
    return (
        f"{a} and {b} cannot be told apart: {gap} ({interval}). "
        f"To show a difference as small as this one would take {seeds(one.seeds_needed)} seeds; one of a whole point, "
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
        return "Of new pictures nothing is said: these come in too few groups."
    if len(general) == len(real):
        return "This holds for new pictures too."
    if not general:
        return "None of it is sure for new pictures."
    not_sure = [f"{one.contrast.a} above {one.contrast.b}" for one in real if not one.significant_on_new_images]
    return f"For new pictures all but this is sure: {join_words(not_sure[:STATED])}{and_more(not_sure)}."


def about_interactions(grid: FactorGrid, analysis: Analysis) -> list[Finding]:
    """Whether a factor's effect depends on another's level; the largest change of each two factors."""
    family = [one for one in analysis.interactions if one.contrast.stratum == grid.stratum]
    known = [one for one in family if one.estimate.trainings is not None]
    if not known:
        return []
    real = [one for one in known if one.significant]
    if not real:
        none = "was not declared" if len(known) == 1 else "were none of them declared"
        text = (
            f"{pluralise(len(known), 'interaction')} {none}: nothing says that an effect depends on where it is taken."
        )
        return [Finding("Interactions", "", text)]
    largest: dict[str, Comparison] = {}
    for one in sorted(real, key=lambda one: -abs(one.estimate.difference)):
        largest.setdefault(one.contrast.factor, one)
    ours = [as_positive(one) for one in analysis.marginal if one.contrast.stratum == grid.stratum]
    positive = {(one.contrast.a, one.contrast.b) for one in ours}
    many = f"{len(real)} of {len(known)} interactions {'is' if len(real) == 1 else 'are'} real"
    changes = "; ".join(change(one, positive, grid.factors) for one in largest.values())
    text = f"{many}: the differences above are means, and not the same everywhere. The largest changes: {changes}."
    return [Finding("Interactions", "", " ".join([text, *other_orders(grid)]))]


def change(one: Comparison, positive: set[tuple[str, str]], factors: Sequence[Factor]) -> str:
    """By how much a difference changes from one level to the next. positive: pairs whose first is mostly higher."""
    one = as_positive(one)
    other = next(factor.label for factor in factors if one.contrast.factor.endswith(f" x {factor.key}"))
    a, b, there, elsewhere = one.contrast.square or ("", "", "", "")
    if (a, b) not in positive:  # a less b at one place is b less a at the other
        a, b, there, elsewhere = b, a, elsewhere, there
    gap, interval = points(one.estimate.difference, one.score), bounds(one.estimate.trainings, one.score)
    return f"{a} over {b} is {gap} points ({interval}) more at {other} {there} than at {elsewhere}"


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
    return [f"The highest mean, as found, is mostly that of {usual}, but here of another: {said}."]


def and_more(items: Sequence[object]) -> str:
    """How many of a list are not stated."""
    return f" and {len(items) - STATED} more" if len(items) > STATED else ""


def too_few(count: int) -> str:
    """Why there is no interval."""
    return (
        f"With {pluralise(count, 'seed')} there is no interval ({MIN_SEEDS} are the least, 5 advised), and nothing is "
        f"said about which differences are real."
    )
