"""The runs of a sweep as the report compares them: each network with its runs by seed."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.cell_list import Problem
from segpipe.analysis.design_points import DesignPoint
from segpipe.analysis.factors import FACTORS, Factor
from segpipe.analysis.scores import MIOU, ReportScore
from segpipe.analysis.settings import TrainingFacts
from segpipe.analysis.tuned import Tuned
from segpipe.metrics.confusion import RatioCounts
from segpipe.runs.labels import NOT_SET, Level
from segpipe.runs.run import Run


@dataclass(eq=False)
class FinishedRun:
    """A finished run with intact files.

    matrices: int (I, C, C), a confusion matrix for each test image, rows true. facts: the configuration that can change
    its result. val: the score on the validation images, by which networks are ranked. counts: of the report's score, if
    it is a score at boundaries.
    """

    run: Run
    config: dict[str, Any]
    metrics: dict[str, Any]
    matrices: NDArray[np.int32]
    facts: TrainingFacts
    val: float
    counts: RatioCounts | None = None


@dataclass(eq=False)
class TrainedNetwork:
    """A network and its runs by seed.

    points: the design points (cells) that are this network.
    """

    points: list[DesignPoint]
    runs: dict[int, FinishedRun] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The label of its first design point."""
        return self.points[0].label

    @property
    def val(self) -> float:
        """The mean validation score over seeds; NaN without runs."""
        return float(np.mean([run.val for run in self.runs.values()])) if self.runs else float("nan")

    def level(self, factor: Factor, point: DesignPoint | None = None) -> Level:
        """Return the level of a factor; from the configuration if the sweep does not vary the factor.

        point: one of its design points; None takes the first. NOT_SET where the configuration lacks the key, and for a
        network without runs.
        """
        of_point = point or self.points[0]
        if any(one.key == factor.key for one in (*of_point.factors, *of_point.outer)):
            return of_point.level(factor.key)
        with suppress(KeyError, StopIteration):
            return factor.level_in(next(iter(self.runs.values())).config)
        return NOT_SET


@dataclass(eq=False)
class Collection:
    """All networks and runs below a folder.

    images, groups: names of the I test images and of their groups, the same for every run. separating: for each key in
    which runs differ although no override sets it, how often each value occurs. has_cell_list: whether a sweep's list
    defines the requested cells. factors: those of a group of cells, of which ``averaged`` are not drawn. outer: the
    factors whose levels form groups. score: the score that is compared. tuned: how the levels of nuisance factors were
    chosen.
    """

    folder: Path
    networks: list[TrainedNetwork]
    seeds: list[int]
    classes: list[str]
    palette: list[tuple[int, int, int]]
    images: list[str]
    groups: list[str]
    problems: list[Problem]
    separating: dict[str, Counter[str]] = field(default_factory=dict)
    has_cell_list: bool = True
    factors: tuple[Factor, ...] = FACTORS
    score: ReportScore = MIOU
    outer: tuple[Factor, ...] = ()
    averaged: tuple[Factor, ...] = ()
    tuned: Tuned | None = None

    @cached_property
    def points(self) -> dict[DesignPoint, int]:
        """The index of the network of each design point."""
        return {point: number for number, network in enumerate(self.networks) for point in network.points}

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """The factors of figures."""
        return tuple(factor for factor in self.factors if factor not in self.averaged)

    @property
    def runs(self) -> list[FinishedRun]:
        """All finished runs that are used."""
        return [run for network in self.networks for run in network.runs.values()]
