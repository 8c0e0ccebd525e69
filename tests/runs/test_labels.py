"""Labels of cells: the swept keys alone, as short as possible, and never two alike."""

import itertools

import pytest

from segpipe.runs.cells import Cell
from segpipe.runs.labels import labels, override_values, parse_level, short_keys


def cell(*overrides, model="ladder", stride=4):
    """Return the cell of some overrides, as a sweep lists it."""
    given = override_values(overrides)
    choices = {"model": given.get("model", model), "stride": int(given.get("model.stride", stride))}
    choices |= {"decoder": given.get("decoder", "deconv"), "fusion": given.get("fusion", "sum")}
    choices |= {"match": given.get("match"), "seed": int(given.get("seed", 0))}
    return Cell(list(overrides), choices, "run")


SWEEPS = {
    "one cell": ([cell("seed=0")], ["ladder4 deconv sum"]),
    "seeds": ([cell("seed=0"), cell("seed=1")], ["ladder4 deconv sum seed=0", "ladder4 deconv sum seed=1"]),
    "decoder": ([cell("decoder=deconv"), cell("decoder=nearest")], ["deconv", "nearest"]),
    "groups": (
        [cell("encoder=small", "loss=dice"), cell("encoder=vgg16", "loss=dice"), cell("encoder=small", "loss=focal")],
        ["small dice", "vgg16 dice", "small focal"],
    ),
    "numbers": ([cell("optimizer.lr=1e-3"), cell("optimizer.lr=0.01")], ["lr=0.001", "lr=0.01"]),
    "lists": (
        [cell("data.crop=[64,64]"), cell("data.crop=[64, 128]"), cell("data.crop=null")],
        ["crop=[64,64]", "crop=[64,128]", "crop=null"],
    ),
    "the same end": (
        [cell("model.width=8", "neck.width=8"), cell("model.width=8", "neck.width=4"), cell("model.width=4")],
        ["model.width=8 neck.width=8", "model.width=8 neck.width=4", "model.width=4"],
    ),
    "a level that says nothing": ([cell("augment=none"), cell("augment=light")], ["augment=none", "augment=light"]),
    "levels of two groups alike": (
        [cell("encoder=unet", "neck=unet"), cell("encoder=small", "neck=unet"), cell("encoder=small", "neck=fc")],
        ["unet neck=unet", "small neck=unet", "small neck=fc"],
    ),
    "strides": ([cell("model.stride=4"), cell("model.stride=8")], ["ladder4", "ladder8"]),
    "fcn": ([cell("model=fcn8s", stride=8), cell("model=fcn16s", stride=16)], ["fcn8s", "fcn16s"]),
    "models": ([cell("model=unet", stride=1), cell("model=fcn8s", stride=8)], ["unet", "fcn8s"]),
    "views": ([cell(), cell("match=params")], ["unmodified operators", "equal parameters"]),
    "decoder and view": (
        [cell("decoder=deconv"), cell("decoder=deconv", "match=params"), cell("decoder=nearest")],
        ["deconv", "deconv equal parameters", "nearest"],
    ),
    "not set in some": ([cell("decoder=deconv"), cell("decoder=deconv", "+loss.gamma=1")], [
        "ladder4 deconv sum", "gamma=1"]),
    "what changes no result": ([cell("seed=0", "data.workers=1"), cell("seed=1", "data.workers=2")], [
        "ladder4 deconv sum seed=0", "ladder4 deconv sum seed=1"]),
}  # fmt: skip


@pytest.mark.parametrize(("cells", "expected"), SWEEPS.values(), ids=SWEEPS)
def test_labels_are_made_of_the_swept_keys(cells, expected):
    assert labels(cells) == expected


def test_no_two_cells_read_alike():
    """Models whose names end in a digit, and levels that look like words of others."""
    values = {"model": ["net", "net1"], "model.stride": ["6", "16"], "loss": ["a b", "a"], "augment": ["b c", "c"]}
    cells = [
        cell(*(f"{key}={value}" for key, value in zip(values, combination, strict=True)))
        for combination in itertools.product(*values.values())
    ]
    assert len(set(labels(cells))) == len(cells)


@pytest.mark.parametrize(
    ("text", "level"),
    [("1e-3", 0.001), ("1", 1), ("null", "null"), ("None", "None"), ("'a b'", "a b"), ("[1, 2e-3,a]", '[1,0.002,"a"]'),
     ("inf", "inf"), ("True", "true"), ("[", "["), ("", "")],
)  # fmt: skip
def test_values_that_are_equal_are_one_level(text, level):
    assert parse_level(text) == level


def test_short_keys_end_where_they_differ():
    keys = ["optimizer.lr", "task.encoder_lr", "a.b.c", "x.b.c", "loss.terms.0", "stride", "data.stride"]
    assert short_keys(keys) == {
        "optimizer.lr": "lr", "task.encoder_lr": "encoder_lr", "a.b.c": "a.b.c", "x.b.c": "x.b.c",
        "loss.terms.0": "terms.0", "stride": "stride", "data.stride": "data.stride",
    }  # fmt: skip


def runs(*overrides, run):
    """Return the cell of some overrides with the name of its run."""
    return cell(*overrides)._replace(run=run)


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("warm_start", ("runs/A", "runs/B"), ["warm_start=runs/A", "warm_start=runs/B"]),
        ("data.root", ("/d/setA", "/d/setB/"), ["root=setA", "root=setB"]),
        ("data.channels", (3, 4), ["channels=3", "channels=4"]),
        ("data.dataset.pages", ("all", "first"), ["pages=all", "pages=first"]),
        ("data.dataset.images", ("rgb/*.tif", "ir/*.tif"), ["images=rgb/*.tif", "images=ir/*.tif"]),
        ("data.root", ("/a/data", "/b/data"), ["r1", "r2"]),
    ],
)
def test_a_key_of_content_is_named_where_it_distinguishes_runs(key, values, expected):
    cells = [
        runs(f"decoder={decoder}", f"{key}={value}", run=f"{decoder}-r{number}")
        for decoder in ("deconv", "nearest")
        for number, value in enumerate(values, start=1)
    ]
    assert labels(cells) == [f"{decoder} {word}" for decoder in ("deconv", "nearest") for word in expected]
    assert labels([one._replace(run="same") for one in cells[:2]]) == ["ladder4 deconv sum"] * 2


def test_data_that_were_moved_distinguish_no_cells():
    """The seeds of a later start have another folder of the same data."""
    cells = [
        runs(f"decoder={decoder}", f"seed={seed}", f"data.root=/{'a' if seed < 2 else 'b'}", run=f"{decoder}-{seed}")
        for decoder in ("deconv", "nearest")
        for seed in range(4)
    ]
    assert labels(cells, with_seed=False) == ["deconv"] * 4 + ["nearest"] * 4


def test_labels_of_runs_that_differ_in_nothing_else_end_with_their_identities():
    cells = [runs("decoder=deconv", run=f"ladder4-deconv-s0-{identity}") for identity in ("1a2b3c4d", "5e6f7a8b")]
    cells.append(runs("decoder=nearest", run="ladder4-nearest-s0-00000000"))
    assert labels(cells, with_seed=False) == ["deconv 1a2b3c4d", "deconv 5e6f7a8b", "nearest"]
