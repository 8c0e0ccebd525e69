"""Where a run stands in the design: what was chosen for it, and what else was varied."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from segpipe.cells import Cell

PLACED_BY = {"seed", "model", "model.stride", "decoder", "fusion", "match", "budget", "decoder.smooth"}
NO_SETTING = ("sweep.", "logger", "trainer.", "resume", "run_dir", "hydra.", "data.workers", "data.root", "debug")
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


def keys(overrides: Iterable[str]) -> dict[str, str]:
    """What was overridden."""
    return {key.lstrip("+~"): value for key, _, value in (override.partition("=") for override in overrides)}


def placed(listed: list[Cell], matches: Mapping[str, Any]) -> dict[Place, dict[int, str]]:
    """Of every place that means something its runs, by seed.

    matches: what finished runs were matched in, for cells that do not say so themselves.
    """
    varied = [
        {k: v for k, v in keys(cell.overrides).items() if k not in PLACED_BY and not k.startswith(NO_SETTING)}
        for cell in listed
    ]
    constant = {item for item in varied[0].items() if all(item in one.items() for one in varied)} if varied else set()
    places: dict[Place, dict[int, str]] = {}
    for cell, given in zip(listed, varied, strict=True):
        if cell.refused or cell.error:
            continue
        choices, overrides = cell.choices, keys(cell.overrides)
        smoothed = overrides.get("decoder.smooth", "null") != "null"  # unpool's own smoothing is part of it
        # A run may be of two cells, matched and not, and its configuration is that of one of them.
        match = choices["match"] if "match" in choices else matches.get(str(cell.run), overrides.get("match"))
        view = MATCHED.get(str(match), SMOOTHED if smoothed else AS_THEY_ARE)
        setting = " ".join(f"{key}={value}" for key, value in sorted(given.items()) if (key, value) not in constant)
        model = "fcn" if re.fullmatch(r"fcn\d+s", choices["model"]) else choices["model"]
        place = Place(setting, view, model, choices["stride"], choices["decoder"], choices["fusion"])
        places.setdefault(place, {})[choices["seed"]] = str(cell.run)
    return places
