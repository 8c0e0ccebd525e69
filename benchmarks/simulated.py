"""Scores of sweeps whose truth is known, and how often the report's methods go wrong on them.

Scores are drawn as a run's test mIoU, without images, and go through the functions that a report uses. The networks
of a sweep share a part of each seed's luck, and validation moves with the test, as in the sweeps under docs/sweeps.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from segpipe.analysis.statistics.best import best_of, candidates, paired
from segpipe.analysis.statistics.comparison import ALPHA
from segpipe.analysis.statistics.contrasts import Contrast
from segpipe.analysis.statistics.intervals import MIN_SEEDS, common_correlation, smallest_of
from segpipe.analysis.statistics.pairing import Pairing, by_context

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]

SHARED = 0.3  # correlation of two networks' scores over seeds: 0.26 and 0.35 in the two kept sweeps
ALIKE = 0.98  # of validation and test over seeds, in both
LOUD = 10.0  # how many times as noisy one operator is: unpooling, there
BATCH = 500  # sweeps drawn at once


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Of deviation 1, as all here."""
    return random.standard_normal(shape)


def heavy(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Student's t with 3 degrees of freedom."""
    return random.standard_t(3, shape) / 3**0.5


def skewed(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Log-normal, to the left: a few trainings end far below the others; skewness 6."""
    e = np.e
    return (e**0.5 - np.exp(random.standard_normal(shape))) / (e * (e - 1)) ** 0.5


def failing(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One training in ten fails: ten deviations below the others."""
    found = random.standard_normal(shape) - 10 * (random.random(shape) < 0.1)
    return (found + 1) / 10**0.5


class Regime(NamedTuple):
    """draw: the noise of a training. loud: whether the last fifth of the networks is LOUD times as noisy.

    missing: share of the runs.
    """

    name: str
    draw: Draw
    loud: bool = False
    missing: float = 0.0


REGIMES = (
    Regime("normal", normal),
    Regime("normal, one operator ten times as noisy", normal, loud=True),
    Regime("heavy tails (t, 3 degrees)", heavy),
    Regime("heavy tails, one operator ten times as noisy", heavy, loud=True),
    Regime("normal, 5 % of the runs missing", normal, missing=0.05),
    Regime("skewed (log-normal)", skewed),
    Regime("skewed, one operator ten times as noisy", skewed, loud=True),
    Regime("one training in ten fails", failing),
)
MISSED = (REGIMES[0], REGIMES[1], REGIMES[2], REGIMES[6])  # of which runs are missing


def scales(regime: Regime, networks: int) -> Floats:
    """Deviation over seeds of each network."""
    found = np.ones(networks)
    found[networks - networks // 5 :] = LOUD if regime.loud else 1
    return found


def drawn(random: np.random.Generator, regime: Regime, networks: int, seeds: int, trials: int) -> Iterator[Floats]:
    """Noise (T, N, S) of the test, in batches."""
    for start in range(0, trials, BATCH):
        size = min(BATCH, trials - start)
        together = SHARED**0.5 * regime.draw(random, (size, 1, seeds))
        own = (1 - SHARED) ** 0.5 * regime.draw(random, (size, networks, seeds))
        yield scales(regime, networks)[:, None] * (together + own)


def best_errors(regime: Regime, *, seeds: int, trials: int, networks: int = 45) -> dict[str, float]:
    """Shares of sweeps that say something wrong about single networks.

    worse: of equal networks, one is called worse than the best. uncorrected: the same by Hsu's set alone, without Holm.
    intervals: of unequal ones, an interval of "less the best of the others" does not hold. named, loudest: of equal
    ones, one is said to differ from a reference that was named before, the first or the last; where no run is missing.
    by validation: the same of the best on validation, as reports had it once.
    """
    random = np.random.default_rng(seeds)
    scale = scales(regime, networks)
    means = np.concatenate([[0, 0, -0.5, -1, -2, -4], np.linspace(-6, -30, networks - 6)])
    means = np.stack([means, np.roll(means, 3 - networks // 5)])  # the best are quiet, or some of them are loud
    against = () if regime.missing else ("named", "loudest", "by validation")
    errors = dict.fromkeys(("worse", "uncorrected", "intervals", *against), 0.0)
    for batch in drawn(random, regime, networks, seeds, trials):
        rest = (1 - ALIKE**2) ** 0.5 * scale * seeds**-0.5 * random.standard_normal((len(batch), networks))
        chosen = (ALIKE * batch.mean(2) + rest).argmax(1)
        for number, (scores, best) in enumerate(zip(batch, chosen, strict=True)):
            if regime.missing:
                scores = without(random, scores[None], Missing(regime.missing))[0]
            kept = candidates(np.isfinite(scores))
            difference, spread = paired(scores[kept])
            found = best_of(difference, [spread])
            errors["worse"] += bool((found.adjusted < ALPHA).any())
            errors["uncorrected"] += bool(((len(kept) - 1) * found.p < ALPHA).any())
            errors["intervals"] += not hold(difference, spread, means[number % 2, kept])
            for name, reference in zip(against, (0, networks - 1, int(best)), strict=False):
                errors[name] += differs(
                    scores, difference[:, reference], spread.standard_error[:, reference], reference
                )
    return {name: count / trials for name, count in errors.items()}


def hold(difference: Floats, spread, means: Floats) -> bool:
    """Whether all constrained intervals do, once the networks differ by their means."""
    found = best_of(difference + means[:, None] - means, [spread])
    others = np.where(np.eye(len(means), dtype=bool), -np.inf, means).max(1)
    truth = means - others
    return bool(((found.low <= truth) & (truth <= found.high)).all())


def differs(scores: Floats, difference: Floats, error: Floats, reference: int) -> bool:
    """Whether Dunnett's comparison declares any difference from the reference."""
    seeds = scores.shape[1]
    others = np.arange(len(scores)) != reference
    correlation = round(common_correlation(np.cov(scores[others] - scores[reference])), 2)
    smallest = smallest_of((float(seeds - 1),) * int(others.sum()), correlation)
    p = 2 * float(stdtr(seeds - 1, -np.abs(difference[others] / error[others]).max()))
    return max(float((smallest <= p).mean()), p) < ALPHA


class Missing(NamedTuple):
    """How many runs are missing, of all. low: they are those of the lowest scores, and not any."""

    share: float
    low: bool = False


MISSING = (Missing(0), Missing(0.02), Missing(0.1), Missing(0.2), Missing(0.1, low=True))


def without(random: np.random.Generator, scores: Floats, missing: Missing) -> Floats:
    """Scores (T, N, S) with NaN where a run is missing."""
    count = round(missing.share * scores[0].size)
    rank = scores if missing.low else random.random(scores.shape)
    order = np.argsort(rank.reshape(len(scores), -1), axis=1)[:, :count]
    found = scores.reshape(len(scores), -1).copy()
    np.put_along_axis(found, order, np.nan, axis=1)
    return found.reshape(scores.shape)


def missing_errors(
    family: list[Contrast], regime: Regime, missing: Missing, *, seeds: int, trials: int
) -> dict[str, float]:
    """Of contrasts of a design with runs missing.

    declared: share of sweeps of equal networks in which any difference of the family is declared (Holm). single: of
    single intervals that do not hold where networks differ, and factors interact; worst: of the worst contrast.
    unknown: of contrasts without an interval; before: of those that had none while all contexts had to share seeds.
    """
    networks = family[0].weights.shape[1]
    random = np.random.default_rng(seeds)
    means = 3 * random.standard_normal(networks)  # whatever the factors: all of them interact
    smallest, missed, known, before = [], np.zeros(len(family)), np.zeros(len(family)), 0.0
    for noise in drawn(random, regime, networks, seeds, trials):
        random_state = random.bit_generator.state
        equal = without(random, noise, missing)
        random.bit_generator.state = random_state
        unequal = without(random, noise + means[:, None], missing)
        p = np.ones((len(noise), len(family)))
        for number, contrast in enumerate(family):
            mean, error, freedom, _ = over_contexts(contrast, equal, np.zeros(networks))
            p[:, number] = 2 * stdtr(freedom, -np.abs(mean / error))
            mean, error, freedom, truth = over_contexts(contrast, unequal, means)
            held = np.isfinite(error)
            known[number] += held.sum()
            missed[number] += (np.abs(mean - truth) > stdtrit(freedom, 1 - ALPHA / 2) * error)[held].sum()
            used = np.abs(contrast.weights).sum(0) > 0
            before += float((np.isfinite(unequal[:, used]).all(1).sum(1) < MIN_SEEDS).sum())
        there = np.isfinite(p)
        smallest.append(np.where(there, p, 1).min(1) * np.maximum(there.sum(1), 1))
    single = missed / np.maximum(known, 1)
    total = trials * len(family)
    return {
        "declared": float((np.concatenate(smallest) < ALPHA).mean()),
        "single": float(missed.sum() / known.sum()),
        "worst": float(single.max()),
        "unknown": 1 - float(known.sum()) / total,
        "before": before / total,
    }


def over_contexts(contrast: Contrast, scores: Floats, means: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, error, degrees of freedom and truth of each sweep's (T, N, S), from the contexts with enough seeds."""
    found = by_context(contrast.weights, scores)
    kept = np.isfinite(found).sum(-1) >= MIN_SEEDS
    share = kept / np.maximum(kept.sum(-1, keepdims=True), 1)
    pairing = Pairing(np.isfinite(found), share)
    with np.errstate(invalid="ignore"):
        variance, freedom = pairing.of_mean(found)
    error = np.where(kept.any(-1), np.sqrt(variance), np.nan)
    freedom = np.where(kept.any(-1), freedom, MIN_SEEDS - 1)
    return pairing.mean(found), error, freedom, share @ (contrast.weights @ means)
