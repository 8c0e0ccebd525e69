"""Where a run stands in the design: what was chosen for it, and what else was varied."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from segpipe.runs.cells import Cell

PLACED_BY = {"seed", "model", "model.stride", "decoder", "fusion", "match", "budget", "decoder.smooth"}
NO_SETTING = (
    "sweep.",
    "logger",
    "trainer.",
    "resume",
    "run_dir",
    "hydra.",
    "data.workers",
    "data.root",
    "debug",
    "warm_start",
)
AS_THEY_ARE, SMOOTHED = "operators as they are", "every operator smoothed"
MATCHED = {"params": "equal parameters", "multiply_adds": "equal multiply-adds"}


class Place(NamedTuple):
    """A cell of the design, less its seed. setting: what else was varied, as on the command line."""

    setting: str
    view: str
    model: str
    stride: int
    decoder: str
    fusion: str

    @property
    def stratum(self) -> tuple[str, str, str]:
        """Cells of one stratum differ in decoder, fusion and stride only."""
        return self[:3]

    @property
    def said(self) -> str:
        """A name that a reader can take apart."""
        model = f"fcn{self.stride}s" if self.model == "fcn" else f"{self.model}{self.stride}"
        view = {AS_THEY_ARE: "", SMOOTHED: "smoothed"}.get(self.view, self.view)
        return " ".join(filter(None, [model, self.decoder, self.fusion, view, self.setting]))


class Spot(NamedTuple):
    """One of the places of a run. setting: as in the place; told: keys of PLACED_BY that an override sets."""

    place: Place
    seed: int
    run: str
    setting: dict[str, str]
    told: frozenset[str]


def keys(overrides: Iterable[str]) -> dict[str, str]:
    """What was overridden."""
    return {key.lstrip("+~"): value for key, _, value in (override.partition("=") for override in overrides)}


def said(setting: Mapping[str, str]) -> str:
    """A setting on one line."""
    return " ".join(f"{key}={value}" for key, value in sorted(setting.items()))


def placed(listed: list[Cell], matches: Mapping[str, Any]) -> list[Spot]:
    """The places of all cells that mean something, by what their overrides say.

    matches: what finished runs were matched in, for cells that do not say so themselves.
    """
    given = [keys(cell.overrides) for cell in listed]
    varied = [
        {k: v for k, v in one.items() if k not in PLACED_BY - {"budget"} and not k.startswith(NO_SETTING)}
        for one in given
    ]
    constant = {item for item in varied[0].items() if all(item in one.items() for one in varied)} if varied else set()
    spots = []
    for cell, overrides, others in zip(listed, given, varied, strict=True):
        if cell.refused or cell.error:
            continue
        choices = cell.choices
        smoothed = overrides.get("decoder.smooth", "null") != "null"  # unpool's own smoothing is part of it
        # A run may be of two cells, matched and not, and its configuration is that of one of them.
        match = choices["match"] if "match" in choices else matches.get(str(cell.run), overrides.get("match"))
        view = MATCHED.get(str(match), SMOOTHED if smoothed else AS_THEY_ARE)
        setting = dict(others.items() - constant)
        if view not in MATCHED.values():
            setting.pop("budget", None)  # which says nothing here
        model = "fcn" if re.fullmatch(r"fcn\d+s", choices["model"]) else choices["model"]
        place = Place(said(setting), view, model, choices["stride"], choices["decoder"], choices["fusion"])
        spots.append(Spot(place, choices["seed"], str(cell.run), setting, frozenset(overrides) & PLACED_BY))
    return spots
