"""How often the report's intervals and corrections are wrong: ``python -m benchmarks.coverage [--part best]``.

Networks are simulated whose truth is known. Parts intervals and equal: each training and each image has a quality of
its own, the logit of the share of pixels that are found; confusion matrices follow, and go through the very functions
that a report uses. Parts best and missing draw scores at once (simulated.py): many more sweeps, of other noise too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import simulated, simulated_factors
from benchmarks.simulated import MISSED, MISSING, Missing, best_errors, missing_errors, without
from benchmarks.timing import arguments
from segpipe.analysis.collection import Collection, TrainedNetwork
from segpipe.analysis.design_points import DesignPoint
from segpipe.analysis.statistics.contrasts import Design
from segpipe.analysis.statistics.effects import analyse
from segpipe.analysis.statistics.intervals import MIN_SEEDS, estimate
from segpipe.analysis.statistics.pairing import by_context
from segpipe.analysis.statistics.resample import ScoreCounts, ratios, score_and_resample
from segpipe.metrics.confusion import iou_counts
from segpipe.runs.labels import UNMATCHED

CLASSES = 4
FACTORIAL = (*simulated.REGIMES[:4], simulated.REGIMES[6])  # the last one is skewed: reported as it is
CONFUSED = np.array([[0, 0.6, 0.3, 0.1], [0.7, 0, 0.2, 0.1], [0.4, 0.4, 0, 0.2], [0.5, 0.3, 0.2, 0]])  # misses go here
OFFSET = np.array([1.5, 0.5, 0.0, -0.7])  # of a class's logit: some are harder
SHARES = np.array([4.0, 2.0, 1.0, 0.5])  # of the pixels, before chance


@dataclass(frozen=True)
class Regime:
    """Standard deviations of the logit: of a training, of a image for a network, of both together."""

    name: str
    training: float
    image: float
    residual: float


REGIMES = (
    Regime("seed noise dominates", 0.10, 0.05, 0.10),
    Regime("balanced", 0.04, 0.10, 0.10),
    Regime("image effect dominates", 0.02, 0.30, 0.10),
)


@dataclass(frozen=True, eq=False)
class Images:
    """What the test set is: pixels (I, C), difficulty (I,), and what each image is to each of K networks (K, I)."""

    pixels: NDArray[np.float64]
    difficulty: NDArray[np.float64]
    own: NDArray[np.float64]


def images(random: np.random.Generator, regime: Regime, *, networks: int, count: int) -> Images:
    """A test set."""
    pixels = np.round(10_000 * random.dirichlet(SHARES, count))
    own = regime.image * random.standard_normal((networks, count))
    return Images(pixels, 0.8 * random.standard_normal(count), own)


def matrices(
    random: np.random.Generator, regime: Regime, test: Images, means: NDArray[np.float64], *, seeds: int
) -> NDArray[np.int64]:
    """Confusion matrices (K, S, I, C, C) of K networks, ``means`` their logits, each trained S times."""
    networks, count = test.own.shape
    quality = means[:, None, None] + test.difficulty + test.own[:, None]
    quality = quality + regime.training * random.standard_normal((networks, seeds, 1))
    quality = quality + regime.residual * random.standard_normal((networks, seeds, count))
    found = 1 / (1 + np.exp(-(quality[..., None] + OFFSET)))  # (K, S, I, C)
    missed = np.floor(test.pixels * (1 - found))
    matrix = np.floor(missed[..., None] * CONFUSED)
    place = np.arange(CLASSES)
    matrix[..., place, place] = test.pixels - matrix.sum(-1)
    return matrix.astype(np.int64)


def tallies(found: NDArray[np.int64]) -> ScoreCounts:
    """The counts of mIoU of matrices (K, S, I, C, C)."""
    kept = iou_counts(found.reshape(-1, CLASSES, CLASSES))
    shape = found.shape[:4]
    return ScoreCounts(
        kept.numerator.reshape(shape), kept.denominator.reshape(shape), kept.present.reshape(shape)[0, 0]
    )


def truth(
    random: np.random.Generator, regime: Regime, test: Images, means: NDArray[np.float64], *, seeds: int
) -> float:
    """The difference of two networks on these images, the mean over many trainings."""
    total = 0.0
    for _ in range(seeds // 100):
        found = tallies(matrices(random, regime, test, means, seeds=100))
        first, second = ratios(found, np.ones((1, len(test.pixels))))[0].mean(1)
        total += (first - second) / (seeds // 100)
    return total


def coverage(
    regime: Regime, *, seeds: int, trials: int, count: int = 60, resamples: int = 400
) -> tuple[float, float, float]:
    """Share of trials in which the intervals of both questions hold the truth; and seed's share of the variance."""
    random = np.random.default_rng(seeds)
    means = np.array([1.1, 1.0])
    weights = np.array([1.0, -1.0])
    sets, held, general, shares = min(40, trials), 0, 0, []
    everywhere = float(
        np.mean([
            truth(random, regime, images(random, regime, networks=2, count=3000), means, seeds=100) for _ in range(10)
        ])
    )  # fmt: skip
    for _ in range(sets):
        fixed = images(random, regime, networks=2, count=count)
        here = truth(random, regime, fixed, means, seeds=2000)
        for _ in range(trials // sets):
            # These images, new trainings; then new images too.
            one = trial(random, regime, fixed, means, weights, seeds=seeds, resamples=2)
            held += one.trainings.low <= here <= one.trainings.high
            new = images(random, regime, networks=2, count=count)
            two = trial(random, regime, new, means, weights, seeds=seeds, resamples=resamples)
            general += two.images.low <= everywhere <= two.images.high
            shares.append(
                two.variance_components["seed"]
                / max(two.variance_components["seed"] + two.variance_components["pictures"], 1e-12)
            )
    return held / trials, general / trials, float(np.mean(shares))


def trial(
    random: np.random.Generator,
    regime: Regime,
    test: Images,
    means: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    seeds: int,
    resamples: int,
) -> Any:
    """One sweep of two networks, and what is estimated from it."""
    found = tallies(matrices(random, regime, test, means, seeds=seeds))
    groups = [str(number) for number in range(len(test.pixels))]
    drawn = score_and_resample(found, groups, resamples=resamples, seed=int(random.integers(2**31)))
    return estimate(drawn, weights, list(range(seeds)))


def equal_grid(seeds: int) -> list[TrainedNetwork]:
    """5 decoders x 3 fusions x FCN-32s, 16s, 8s: 35 networks, since fusion has nothing to do in 32s."""
    networks = []
    for decoder in ("nearest", "bilinear", "deconv", "unpool", "pixelshuffle"):
        for stride in (32, 16, 8):
            fusions = [("none", "sum", "concat")] if stride == 32 else [("none",), ("sum",), ("concat",)]
            for together in fusions:
                places = [DesignPoint("", UNMATCHED, "fcn", (decoder, fusion, stride)) for fusion in together]
                trained: Any = {seed: SimpleNamespace(val=0.5) for seed in range(seeds)}
                networks.append(TrainedNetwork(places, trained))
    return networks


def declared(regime: Regime, *, seeds: int, trials: int, count: int = 40, resamples: int = 200) -> dict[str, float]:
    """Share of simulated sweeps of equal networks in which any difference is declared, by family and question."""
    random = np.random.default_rng(1)
    networks = equal_grid(seeds)
    groups = [str(number) for number in range(count)]
    collection = Collection(
        Path(), networks, list(range(seeds)), list("abcd"), [], groups, groups, []
    )  # fmt: skip
    means = np.full(len(networks), 1.0)
    errors: dict[str, float] = {}
    for _ in range(trials):
        test = images(random, regime, networks=len(networks), count=count)
        found = analyse(
            collection, tallies(matrices(random, regime, test, means, seeds=seeds)), resamples=resamples
        )  # fmt: skip
        for family in ("marginal", "interactions", "single_networks"):
            for question in ("significant", "significant_on_new_images"):
                wrong = any(getattr(one, question) for one in getattr(found, family))
                errors[f"{family} {question}"] = errors.get(f"{family} {question}", 0) + wrong / trials
    return errors


def missing_images(regime: Regime, *, seeds: int, trials: int, share: float = 0.1, count: int = 40) -> float:
    """Share of intervals for new images too that do not hold: equal networks in four contexts, with runs missing."""
    random = np.random.default_rng(seeds)
    contexts = np.concatenate([np.eye(4), -np.eye(4)], axis=1)
    groups = [str(number) for number in range(count)]
    missed = known = 0
    for _ in range(trials):
        test = images(random, regime, networks=8, count=count)
        found = tallies(matrices(random, regime, test, np.ones(8), seeds=seeds))
        gone = without(random, np.zeros((1, 8, seeds)), Missing(share))[0]
        found = found._replace(numerator=found.numerator + gone[..., None, None])
        there = score_and_resample(found, groups, resamples=200, seed=int(random.integers(2**31)))
        enough = np.isfinite(by_context(contexts, there.observed)).sum(1) >= MIN_SEEDS
        interval = estimate(there, contexts[enough], list(range(seeds))).images
        if interval is not None:
            known += 1
            missed += not interval.low <= 0 <= interval.high
    return missed / known if known else float("nan")


def print_intervals(seeds: Sequence[int], trials: int) -> None:
    """Single intervals, of two networks."""
    for regime in REGIMES:
        for count in seeds:
            held, general, share = coverage(regime, seeds=count, trials=trials)
            print(
                f"{regime.name}, {count} seeds: these images {100 * held:.1f} %, new images too "
                f"{100 * general:.1f} % (seeds are {100 * share:.0f} % of the variance)",
                flush=True,
            )


def print_equal(_: Sequence[int], trials: int) -> None:
    """Families, of equal networks, by images."""
    same = Regime("no image effect", 0.05, 0.0, 0.10)
    new_images = "significant_on_new_images"
    for regime, question in ((same, "significant"), (REGIMES[1], new_images), (REGIMES[2], new_images)):
        found = declared(regime, seeds=5, trials=trials)
        said = ", ".join(
            f"{name} {100 * share:.1f} %" for name, share in found.items() if name.endswith(f" {question}")
        )
        print(f"equal networks, {regime.name}: {said}", flush=True)


def print_best(seeds: Sequence[int], trials: int) -> None:
    """Single networks, by scores."""
    for regime in simulated.REGIMES:
        for count in seeds:
            errors = best_errors(regime, seeds=count, trials=trials)
            said = ", ".join(f"{name} {100 * share:.1f} %" for name, share in errors.items())
            print(f"single networks, {regime.name}, {count} seeds: {said}", flush=True)


def print_missing(seeds: Sequence[int], trials: int) -> None:
    """Marginal differences with runs missing, by scores; in a tenth of the trials interactions, and by images."""
    networks = equal_grid(5)
    design = Design(networks, networks[0].points[0].stratum)
    few = max(trials // 10, 1)
    families = [("marginal", [*design.marginal()], trials), ("interactions", [*design.interactions()], few)]
    for (name, family, rounds), regime, missing, count in product(families, MISSED, MISSING, seeds):
        errors = missing_errors(family, regime, missing, seeds=count, trials=rounds)
        said = ", ".join(f"{what} {100 * share:.1f} %" for what, share in errors.items())
        how = f"{100 * missing.share:.0f} % missing{', the lowest' if missing.low else ''}"
        print(f"{name}, {regime.name}, {how}, {count} seeds: {said}", flush=True)
    for regime in REGIMES:
        for count in seeds:
            missed = missing_images(regime, seeds=count, trials=few)
            said = f"new images too, 10 % missing, {count} seeds: single {100 * missed:.1f} %"
            print(f"marginal, {regime.name}, {said}", flush=True)


def print_factors(seeds: Sequence[int], trials: int) -> None:
    """Marginal differences and interactions of designs of two to five factors, by scores."""
    for count, sizes in simulated_factors.SIZES.items():
        for (name, family), regime, missing, number in product(
            simulated_factors.families(sizes).items(), FACTORIAL, (MISSING[0], MISSING[2]), seeds
        ):
            errors = missing_errors(family, regime, missing, seeds=number, trials=trials)
            how = f"{100 * missing.share:.0f} % missing"
            said = ", ".join(f"{what} {100 * errors[what]:.1f} %" for what in ("declared", "single", "worst"))
            print(f"{count} factors, {name} ({len(family)}), {regime.name}, {how}, {number} seeds: {said}", flush=True)


def print_tuned(seeds: Sequence[int], trials: int) -> None:
    """Differences at the level that validation chose, by scores."""
    for regime, scheme, count in product(FACTORIAL, simulated_factors.SCHEMES, seeds):
        errors = simulated_factors.tuned_errors(regime, scheme=scheme, seeds=count, trials=trials)
        said = ", ".join(f"{what} {100 * share:.1f} %" for what, share in errors.items())
        print(f"tuned, {scheme}, {regime.name}, {count} seeds: {said}", flush=True)


PARTS: dict[str, tuple[Callable[[Sequence[int], int], None], int]] = {  # with its usual number of trials
    "intervals": (print_intervals, 2000),
    "equal": (print_equal, 2000),
    "best": (print_best, 10_000),
    "missing": (print_missing, 10_000),
    "factors": (print_factors, 1000),
    "tuned": (print_tuned, 1000),
}


def main() -> None:
    """See the module."""
    parser = arguments(__doc__, rounds=0)
    parser.add_argument("--seeds", default="3,5,10")
    parser.add_argument("--part", choices=[*PARTS], help="one alone (default: all)")
    parser.set_defaults(rounds=None)
    given = parser.parse_args()
    seeds = [int(count) for count in given.seeds.split(",")]
    for name in [given.part] if given.part else PARTS:
        simulate, trials = PARTS[name]
        simulate(seeds, given.rounds or trials)


if __name__ == "__main__":
    main()
