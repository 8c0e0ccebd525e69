"""Fake sweeps over any keys: the list of cells, and finished runs whose scores a test chooses."""

import itertools
import json

import numpy as np
import yaml

from segpipe.runs.labels import is_group, level_of_value
from support.fake_runs import write_run

NAMED = {"decoder": "decoder", "fusion": "fusion", "model.stride": "stride", "model": "model"}


def as_text(value):
    """Return a value as on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(level_of_value(value))


def set_key(config, key, value):
    """Set a dotted key of a configuration; for a group, its name."""
    *groups, last = key.split(".") if not is_group(key) else (key, "name")
    node = config
    for group in groups:
        node = node.setdefault(group, {})
        node = node if isinstance(node, dict) else {}
    node[last] = value


def write_cell_run(folder, levels, *, seed, miou, constant=(), told=True, **given):
    """Write one run whose configuration has these levels. told: whether its overrides say so. Returns its cell."""
    base = {NAMED[key]: value for key, value in levels.items() if key in NAMED}
    write_run(folder, **{"decoder": "deconv", "fusion": "sum"} | base | given, seed=seed, miou=miou)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in levels.items():
        if key not in NAMED:
            set_key(config, key, value)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = json.loads((folder / "run.json").read_text())
    record["overrides"] = [f"seed={seed}", *constant]
    record["overrides"] += [f"{key}={as_text(value)}" for key, value in levels.items()] if told else []
    (folder / "run.json").write_text(json.dumps(record))
    choices = {"model": config["model"]["name"], "stride": config["model"]["stride"]}
    choices |= {group: config[group]["name"] for group in ("decoder", "fusion")} | {"match": None, "seed": seed}
    return {"overrides": record["overrides"], "choices": choices, "run": folder.name}


def write_factors(folder, design, score, *, seeds=3, noise=0.002, missing=(), tuning_seeds=None, listed=True, **given):
    """Write a run of every combination of levels and every seed, and the sweep's list.

    design: levels by key. score: mIoU of a dict of levels, or None for a combination that is no cell. missing: pairs of
    (index of the combination, seed) without a run.
    """
    random = np.random.default_rng(0)
    cells = []
    all_seeds = range(seeds) if isinstance(seeds, int) else seeds
    for number, levels in enumerate(itertools.product(*design.values())):
        own = dict(zip(design, levels, strict=True))
        if (mean := score(own)) is None:
            continue
        for seed in all_seeds:
            name = f"run{number}-s{seed}"
            miou = float(mean + noise * random.standard_normal())
            cell = write_cell_run(folder / name, own, seed=seed, miou=miou, **given)
            cells.append(cell)
            if (number, seed) in missing:
                for path in sorted((folder / name).rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
                (folder / name).rmdir()
    if listed:
        record = {"name": folder.name, "tuning_seeds": tuning_seeds, "cells": cells}
        (folder / "sweep.json").write_text(json.dumps(record))
    return folder
