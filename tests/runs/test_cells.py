"""The list of a sweep's cells: each requested cell once, whatever the next start gives."""

import pytest

from segpipe.engine import progress
from segpipe.runs import cells
from segpipe.runs.cells import Cell
from segpipe.runs.labels import labels
from segpipe.runs.storage import write_json

CHOICES = {"model": "ladder", "stride": 8, "fusion": "sum", "match": None, "seed": 0}


def cell(*overrides, run, **choices):
    """Return a cell; ``run``: None for one with a wrong value."""
    given = dict(override.split("=", 1) for override in overrides)
    found = CHOICES | {"decoder": given.get("decoder", "deconv")} | choices
    return Cell(list(overrides), found, run=run, error=None if run else "no data")


def start(folder, *new, known=True):
    """List the cells of one start, one after another. known: whether all of them are known in advance."""
    requested = {one.place for one in new} if known else None
    for one in new:
        cells.add(folder, one, requested=requested)
    return cells.read(folder)


ROOTS = [f"decoder={decoder}" for decoder in ("nearest", "deconv")], ("setA", "setB")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("missing", [(), ("setA",), ("setA", "setB")])
def test_each_cell_of_a_swept_folder_of_data_is_listed(tmp_path, known, missing):
    """A second start lists the same cells; it makes no difference whether data are missing."""
    decoders, roots = ROOTS
    new = [
        cell(decoder, f"data.root={root}", run=None if root in missing else f"{decoder[8:]}-{root}")
        for decoder in decoders
        for root in roots
    ]
    assert start(tmp_path, *new, known=known) == new
    assert start(tmp_path, *new, known=known) == new
    found = [one._replace(run=one.run or f"later-{index}", error=None) for index, one in enumerate(new)]
    assert start(tmp_path, *found, known=known) == found


def test_two_folders_of_equal_data_are_two_requested_cells(tmp_path):
    new = [cell(f"data.root={root}", run="one") for root in ("setA", "copy")]
    assert start(tmp_path, *new) == new


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("key", ["data.root", "data.dataset.root", "data.dataset.masks", "warm_start"])
def test_files_that_were_moved_between_two_starts_list_no_cell_twice(tmp_path, key, known):
    before, after = (cell("decoder=deconv", f"{key}={place}", run="one") for place in ("/a", "/b"))
    start(tmp_path, before, known=known)
    assert start(tmp_path, after, known=known) == [after]


def test_a_cell_without_data_is_replaced_once_the_folder_is_right(tmp_path):
    wrong, right = (cell("decoder=deconv", f"data.root={root}", run=run) for root, run in (("/x", None), ("/y", "one")))
    start(tmp_path, wrong)
    assert start(tmp_path, right) == [right]
    assert start(tmp_path, wrong) == [right, wrong]  # the run that is there is not forgotten
    assert start(tmp_path, right) == [right]


def test_another_data_set_under_the_same_name_is_another_cell(tmp_path):
    one, other = (cell("decoder=deconv", f"data.root={root}", run=root) for root in ("a", "b"))
    start(tmp_path, one)
    assert start(tmp_path, other) == [one, other]


@pytest.mark.parametrize(
    "more",
    [
        ["logger=none"], ["logger.mode=offline"], ["data.workers=4"], ["trainer.accelerator=cpu"], ["data.cache=true"],
        ["trainer=cpu"], ["optimizer.lr=0.001"], ["fusion=sum"], ["+trainer.enable_progress_bar=false"], ["match=null"],
    ],
)  # fmt: skip
def test_a_key_that_changes_nothing_lists_no_cell_twice(tmp_path, more, capsys):
    pairs = [(f"decoder={decoder}", f"seed={seed}") for decoder in ("nearest", "deconv") for seed in range(3)]
    plain = [cell(*pair, run="-".join(pair), seed=int(pair[1][5:])) for pair in pairs]
    longer = [one._replace(overrides=[*one.overrides, *more]) for one in plain]
    start(tmp_path, *plain)
    assert start(tmp_path, *longer) == longer
    assert start(tmp_path, *plain) == plain  # and with fewer keys
    for one in plain:
        write_json(tmp_path / one.run / "run.json", {"status": "finished"})
    progress.print_cells(tmp_path, "x")
    assert "6 cells, 6 networks: 6 cells finished." in capsys.readouterr().out
    assert len(set(labels(plain))) == 6


def test_another_order_of_the_keys_lists_no_cell_twice(tmp_path):
    words = [[f"decoder={decoder}", f"seed={seed}"] for decoder in ("nearest", "deconv") for seed in range(2)]
    before = [cell(*pair, run="-".join(pair)) for pair in words]
    after = [one._replace(overrides=one.overrides[::-1]) for one in before]
    start(tmp_path, *before)
    assert start(tmp_path, *after) == after
    refused = [one._replace(run=None, refused="no") for one in before]
    start(tmp_path, *refused)
    assert start(tmp_path, *(one._replace(overrides=one.overrides[::-1]) for one in refused))[0].refused == "no"
    assert len(cells.read(tmp_path)) == 4


@pytest.mark.parametrize(
    ("pair", "choices"),
    [
        ((["match=null"], ["match=params"]), ({}, {"match": "params"})),
        ((["decoder=deconv"], ["decoder=deconv", "decoder.smooth=conv3x3"]), ({}, {})),
        (([], ["fusion=none"]), ({}, {"fusion": "none"})),
        (([], ["model.stride=16"]), ({}, {"stride": 16})),
        ((["debug=smoke"], ["debug=none"]), ({}, {})),
    ],
    ids=["match", "smooth", "fusion", "stride", "debug"],
)
def test_cells_that_are_one_network_by_other_choices_stay_two(tmp_path, pair, choices):
    one, other = (cell(*words, run="one", **own) for words, own in zip(pair, choices, strict=True))
    start(tmp_path, one)
    assert start(tmp_path, other) == [one, other]


def test_two_lines_of_one_start_are_two_cells_although_the_second_key_changes_nothing(tmp_path):
    new = [cell("decoder=deconv", run="one"), cell("decoder=deconv", "optimizer.lr=0.001", run="one")]
    assert start(tmp_path, *new) == new


def test_equal_levels_are_one_cell_however_they_are_written(tmp_path):
    start(tmp_path, cell("optimizer.lr=1e-3", run="one"))
    assert len(start(tmp_path, cell("optimizer.lr=0.001", run="one"))) == 1


def test_a_list_in_which_cells_are_twice_is_repaired_by_the_next_start(tmp_path):
    """Earlier versions listed a cell again for another order of its overrides."""
    twice = [cell("decoder=deconv", "seed=0", run="one"), cell("seed=0", "decoder=deconv", "logger=none", run="one")]
    write_json(tmp_path / "sweep.json", {"name": "x", "cells": [one._asdict() for one in twice]})
    assert cells.read(tmp_path) == twice
    assert start(tmp_path, twice[1]) == [twice[1]]
