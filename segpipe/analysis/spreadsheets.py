"""``results.csv`` and ``comparisons.csv``: all numbers of the page, as fractions from 0 to 1."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segpipe.analysis.collection import Collection, FinishedRun
from segpipe.analysis.factors import in_order_of_names
from segpipe.analysis.network_results import COSTS, metric, number_of
from segpipe.analysis.ordering import as_positive
from segpipe.analysis.page import all_scores
from segpipe.analysis.page.boundaries import boundary_scores_of
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import Interval
from segpipe.metrics.confusion import SCORES
from segpipe.runs.storage import write_text

Row = dict[str, Any]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a text that begins like this is a formula to a spreadsheet


def result_rows(collection: Collection) -> Iterator[Row]:
    """Yield a row for every finished cell and seed; cells that are the same network have the same ``run``."""
    for number, network in enumerate(collection.networks):
        for point in network.points:
            for seed, run in sorted(network.runs.items()):
                stratum = {"setting": point.setting, "view": point.view, "model": point.model}
                factors = [*in_order_of_names(point.factors), *point.outer]
                levels = {factor.key: point.level(factor.key) for factor in factors}
                names = {"seed": seed, "network": number, "run": run.run.folder.name}
                yield {**stratum, **levels, **names, **scores_of(run, collection)}


def scores_of(run: FinishedRun, collection: Collection) -> Row:
    """Return the columns with the scores and the cost of a run."""
    tested, key = all_scores.scores_of_run(run, collection.classes), collection.score.key
    return {
        f"val_{collection.score.ranking.key}": run.val,
        **{f"test_{name}": tested[name] for name in SCORES},
        **({} if key in SCORES else {f"test_{key}": metric(run, "test", key)}),
        "test_loss": metric(run, "test", "loss"),
        **{f"test_{name}": value for name, value in tested.items() if name not in SCORES},
        **{f"test_{name}": value for name, value in boundary_scores_of(run).items()},
        **{name: number_of(run, "cost", name) for name in COSTS},
        "best_epoch": metric(run, "best_epoch"),
        "training_seconds": metric(run, "training", "seconds"),
    }


def comparison_rows(analysis: Analysis, more: Mapping[str, Sequence[Comparison]]) -> Iterator[Row]:
    """Yield a row for every comparison. more: exploratory families by the score that they compare."""
    key = analysis.score.key
    yield from family_rows(key, "marginal", [as_positive(one) for one in analysis.marginal])
    yield from family_rows(key, "interaction", [as_positive(one) for one in analysis.interactions])
    yield from family_rows(key, "cell", analysis.single_networks)
    for score, compared in more.items():
        yield from family_rows(score, "marginal, exploratory", [as_positive(one) for one in compared])


def family_rows(score: str, family: str, compared: Sequence[Comparison]) -> Iterator[Row]:
    """Yield the rows of one family.

    p is adjusted for the family. The bounds of single networks are simultaneous; those of other families are not.
    """
    for one in compared:
        contrast, estimate = one.contrast, one.estimate
        setting, view, model = contrast.stratum or ("", "", "")
        yield {
            "score": score,
            "family": family,
            "setting": setting,
            "view": view,
            "model": model,
            "factor": contrast.factor,
            "a": contrast.a,
            "b": contrast.b,
            "a_minus_b": estimate.difference,
            **interval_columns("new_trainings", estimate.trainings),
            "real": one.significant if estimate.trainings else None,
            **interval_columns("new_pictures_too", estimate.images),
            "real_new_pictures_too": one.significant_on_new_images if estimate.images else None,
            "pairs": contrast.contexts,
            "left_out": "; ".join(contrast.dropped),
            "seeds": " ".join(map(str, estimate.seeds)),
            **{f"variance_{part}": estimate.variance_components.get(part) for part in ("seed", "pictures", "residual")},
            "seeds_to_show_it": one.seeds_needed,
            "seeds_to_show_a_point": one.seeds_needed_for(),
        }


def interval_columns(question: str, interval: Interval | None) -> Row:
    """Return the columns of one of the two questions; None where there is no interval."""
    return {
        f"{question}_{what}": getattr(interval, name, None)
        for what, name in (("low", "low"), ("high", "high"), ("df", "dof"), ("p", "p"), ("p_adjusted", "adjusted"))
    }


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV, atomically; missing values are empty fields."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    table.writerow({name: format_field(name) for name in table.fieldnames})
    table.writerows({name: format_field(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def format_field(value: Any) -> str:
    """Return the text of one field: nine significant digits, or empty for None and non-finite values.

    A text that a spreadsheet would execute as a formula gets an apostrophe before it.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
