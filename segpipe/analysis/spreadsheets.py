"""``results.csv`` and ``comparisons.csv``: every number of the page, as shares from 0 to 1."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segpipe.analysis.collect import Collection, FinishedRun
from segpipe.analysis.factors import in_order_of_names
from segpipe.analysis.ordering import as_positive
from segpipe.analysis.page import all_scores
from segpipe.analysis.page.boundaries import counted
from segpipe.analysis.standings import COSTS, metric, number_of
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import Interval
from segpipe.metrics.confusion import SCORES
from segpipe.runs.storage import write_text

Row = dict[str, Any]


def results(collection: Collection) -> Iterator[Row]:
    """A line for every cell and seed that is finished; cells that are the same network have the same ``run``."""
    for number, network in enumerate(collection.networks):
        for place in network.places:
            for seed, run in sorted(network.runs.items()):
                place_of = {"setting": place.setting, "view": place.view, "model": place.model}
                levels = {factor.key: place.level(factor.key) for factor in in_order_of_names(place.factors)}
                names = {"seed": seed, "network": number, "run": run.run.folder.name}
                yield {**place_of, **levels, **names, **scores_of(run, collection)}


def scores_of(run: FinishedRun, collection: Collection) -> Row:
    """Scores and cost of a run."""
    tested, key = all_scores.of_run(run, collection.classes), collection.score.key
    return {
        f"val_{key}": run.val,
        **{f"test_{name}": tested[name] for name in SCORES},
        **({} if key in SCORES else {f"test_{key}": metric(run, "test", key)}),
        "test_loss": metric(run, "test", "loss"),
        **{f"test_{name}": value for name, value in tested.items() if name not in SCORES},
        **{f"test_{name}": value for name, value in counted(run).items()},
        **{name: number_of(run, "cost", name) for name in COSTS},
        "best_epoch": metric(run, "best_epoch"),
        "training_seconds": metric(run, "training", "seconds"),
    }


def comparisons(analysis: Analysis, more: Mapping[str, Sequence[Comparison]]) -> Iterator[Row]:
    """A line for every comparison. more: exploratory families by the score that they compare."""
    own = analysis.score.key
    yield from family(own, "marginal", [as_positive(one) for one in analysis.marginal])
    yield from family(own, "interaction", [as_positive(one) for one in analysis.interactions])
    yield from family(own, "cell", analysis.cells)
    for score, compared in more.items():
        yield from family(score, "marginal, exploratory", [as_positive(one) for one in compared])


def family(score: str, kind: str, compared: Sequence[Comparison]) -> Iterator[Row]:
    """Of one family. p is adjusted for it; a cell's bounds hold for all cells at once, others' for each alone."""
    for one in compared:
        contrast, found = one.contrast, one.estimate
        setting, view, model = contrast.stratum or ("", "", "")
        yield {
            "score": score,
            "family": kind,
            "setting": setting,
            "view": view,
            "model": model,
            "factor": contrast.factor,
            "a": contrast.a,
            "b": contrast.b,
            "a_minus_b": found.difference,
            **bounds("new_trainings", found.trainings),
            "real": one.significant if found.trainings else None,
            **bounds("new_pictures_too", found.pictures),
            "real_new_pictures_too": one.significant_on_new_images if found.pictures else None,
            "pairs": contrast.contexts,
            "left_out": "; ".join(contrast.dropped),
            "seeds": " ".join(map(str, found.seeds)),
            **{f"variance_{part}": found.variance_components.get(part) for part in ("seed", "pictures", "residual")},
            "seeds_to_show_it": one.seeds_needed,
            "seeds_to_show_a_point": one.seeds_needed_for(),
        }


def bounds(question: str, interval: Interval | None) -> Row:
    """Of the answer to one of the two questions."""
    return {
        f"{question}_{what}": getattr(interval, name, None)
        for what, name in (("low", "low"), ("high", "high"), ("df", "dof"), ("p", "p"), ("p_adjusted", "adjusted"))
    }


def write(path: Path, rows: Sequence[Row]) -> None:
    """As CSV, whole; what is not there is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    table.writeheader()
    table.writerows({name: format_field(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def format_field(value: Any) -> str:
    """Of one field."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.9g}" if isinstance(value, float) else str(value)
