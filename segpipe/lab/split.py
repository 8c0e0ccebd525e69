"""What the lab measures on a split of a data set, for several runs."""

from dataclasses import dataclass, field

from segpipe.lab.content import ContentMeasures
from segpipe.lab.failures import FailureMeasures
from segpipe.lab.probes import ProbeMeasures
from segpipe.lab.receptive_field import ReceptiveField
from segpipe.lab.skips import SkipMeasures
from segpipe.lab.switches import SwitchMeasures


@dataclass(frozen=True)
class Reason:
    """A run that cannot be measured, as one without weights. name: of the run; text: why."""

    name: str
    text: str


@dataclass(frozen=True)
class RunMeasures:
    """What was measured of one run.

    reason: why nothing was measured; empty otherwise. data: name of the data set. images: number of images measured,
    total: in the split. fit_split: the split with the images that the probes were fitted on. resampled: what the
    intervals resample, ``groups`` or ``images`` (``bootstrap.units``); groups: the number of groups.
    """

    name: str
    reason: str = ""
    data: str = ""
    split: str = ""
    images: int = 0
    total: int = 0
    fit_split: str = ""
    resampled: str = ""
    groups: int = 0
    classes: list[str] = field(default_factory=list)
    palette: list[tuple[int, int, int]] = field(default_factory=list)
    skips: SkipMeasures | None = None
    fields: list[ReceptiveField] = field(default_factory=list)
    probes: ProbeMeasures | None = None
    switches: list[SwitchMeasures] = field(default_factory=list)
    content: list[ContentMeasures] = field(default_factory=list)


@dataclass(frozen=True)
class SplitMeasures:
    """The runs in the order given, and the first run compared with each of the others."""

    split: str
    runs: list[RunMeasures]
    failures: list[FailureMeasures]
