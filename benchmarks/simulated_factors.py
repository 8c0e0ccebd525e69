"""Designs of two to five factors, and networks at a chosen level of a nuisance factor, with known truth.

As in ``simulated``, scores are drawn without images and go through the functions that a report uses.
"""

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.special import stdtr

from benchmarks.simulated import ALIKE, BATCH, SHARED, Floats, Regime, over_contexts, scales
from segpipe.analysis.collection import TrainedNetwork
from segpipe.analysis.design_points import DesignPoint
from segpipe.analysis.factors import Factor
from segpipe.analysis.statistics.best import best_of, paired
from segpipe.analysis.statistics.comparison import ALPHA
from segpipe.analysis.statistics.contrasts import Contrast, Design, strata
from segpipe.runs.tuned_levels import leave_one_out_factor

SIZES = {2: (5, 3), 3: (5, 3, 2), 4: (5, 2, 2, 2), 5: (5, 2, 2, 2, 2)}  # levels of each factor, the operators first
INNER = 3  # factors of a group; the levels of the others form groups
LEVELS = 3  # of the tuned factor
TUNING = 2  # tuning seeds
SCHEMES = ("tuning seeds", "leave one seed out", "leave one seed out, uncorrected", "the same seeds", "its own best")


def networks_of(sizes: tuple[int, ...], seeds: int) -> list[TrainedNetwork]:
    """Every combination of levels, each a network of its own. Those of the last operator come last."""
    factors = tuple(Factor(f"f{number}", f"f{number}", f"levels of f{number}") for number in range(len(sizes)))
    inner, outer = factors[:INNER], factors[INNER:]
    networks = []
    for levels in product(*(range(size) for size in sizes)):
        names = tuple(map(str, levels))
        setting = " ".join(f"{one.key}={level}" for one, level in zip(outer, names[INNER:], strict=True))
        point = DesignPoint(setting, "", "", names[:INNER], inner, names[INNER:], outer, " ".join(names))
        trained: Any = {seed: SimpleNamespace(val=0.5) for seed in range(seeds)}
        networks.append(TrainedNetwork([point], trained))
    return networks


def families(sizes: tuple[int, ...]) -> dict[str, list[Contrast]]:
    """The two families of a report: marginal differences and interactions, of all groups together."""
    networks = networks_of(sizes, seeds=10)
    designs = [Design(networks, stratum) for stratum in strata(networks)]
    return {
        "marginal": [one for design in designs for one in design.marginal()],
        "interactions": [one for design in designs for one in design.interactions()],
    }


def tuned_errors(regime: Regime, *, scheme: str, seeds: int, trials: int) -> dict[str, float]:
    """Shares of sweeps of equal networks, at equal levels, that declare a difference at the chosen levels.

    scheme: one of SCHEMES: the level of each network is chosen on TUNING other seeds; each seed is judged at the level
    that the others choose, with the report's correction or without; the level is chosen on all seeds that are judged;
    each seed is judged at its own best level. A report uses the first two alone.
    declared: any marginal difference (Holm). worse: any network is called worse than the best.
    """
    family = families(SIZES[2])["marginal"]
    count = family[0].weights.shape[1]
    random = np.random.default_rng(seeds)
    scale = scales(regime, count)[:, None, None]
    every = seeds + (TUNING if scheme == "tuning seeds" else 0)
    declared = worse = 0
    for start in range(0, trials, BATCH):
        size = min(BATCH, trials - start)
        together = SHARED**0.5 * regime.draw(random, (size, 1, 1, every))
        own = (1 - SHARED) ** 0.5 * regime.draw(random, (size, count, LEVELS, every))
        test = scale * (together + own)
        val = ALIKE * test + (1 - ALIKE**2) ** 0.5 * scale * random.standard_normal(test.shape)
        judged = np.stack([at_chosen(one, guide, scheme, seeds) for one, guide in zip(test, val, strict=True)])
        factor = leave_one_out_factor(seeds) if scheme == "leave one seed out" else 1.0
        p = np.stack([p_values(contrast, judged, factor) for contrast in family], axis=1)
        declared += int((p.min(1) * len(family) < ALPHA).sum())
        worse += sum(bool((best_of(*as_pairs(scores, factor)).adjusted < ALPHA).any()) for scores in judged)
    return {"declared": declared / trials, "worse": worse / trials}


def as_pairs(scores: Floats, factor: float) -> tuple[Floats, list[Any]]:
    """The arguments of ``best_of`` for scores (N, S). factor: of the variance over seeds."""
    difference, errors = paired(scores, factor)
    return difference, [errors]


def p_values(contrast: Contrast, scores: Floats, factor: float) -> Floats:
    """The p of a contrast in each sweep of scores (T, N, S). factor: of the variance over seeds."""
    mean, error, freedom, _ = over_contexts(contrast, scores, np.zeros(scores.shape[1]))
    return 2 * stdtr(freedom, -np.abs(mean / error) / factor**0.5)  # type: ignore[no-any-return]


def at_chosen(test: Floats, val: Floats, scheme: str, seeds: int) -> Floats:
    """The test scores (N, S) at the chosen levels. test, val: (N, levels, seeds); tuning seeds are the last ones."""
    judged = np.empty((len(test), seeds))
    for number, (scores, guide) in enumerate(zip(test, val, strict=True)):
        by_level = {level: dict(enumerate(row)) for level, row in enumerate(guide.tolist())}
        for seed in range(seeds):
            others = {
                "tuning seeds": range(seeds, guide.shape[1]),
                "leave one seed out": [other for other in range(seeds) if other != seed],
                "leave one seed out, uncorrected": [other for other in range(seeds) if other != seed],
                "the same seeds": range(seeds),
                "its own best": [seed],
            }[scheme]
            judged[number, seed] = scores[best_level(by_level, [*others]), seed]
    return judged


def best_level(by_level: dict[int, dict[int, float]], seeds: list[int]) -> int:
    """The level with the highest mean, as ``tuned_levels.choose`` has it, without its measures of certainty."""
    return max(by_level, key=lambda level: sum(by_level[level][seed] for seed in seeds))
