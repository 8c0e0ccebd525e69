import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.grid import grid

from segpipe.data import cache
from segpipe.data.datasets import scenes
from segpipe.data.datasets.shapes import Shapes, draw_scene

HEAVY = {"torch", "pytorch_lightning", "wandb", "albumentations", "hydra", "pydantic", "matplotlib", "scipy"}


MAY_LOAD = {  # module: the heavy libraries that it does load; a command's first second hangs on them
    "segpipe": set(),
    "segpipe.errors": set(),
    "segpipe.engine.shutdown": set(),
    "segpipe.runs.run": set(),
    "segpipe.data.cache": set(),
    "segpipe.metrics.confusion": {"torch"},
    "segpipe.data.datasets.shapes": {"torch"},
    "segpipe.models.network": {"torch"},
    "segpipe.models.cost": {"torch"},
}


LIGHT = [module for module, loaded in MAY_LOAD.items() if not loaded]


@pytest.fixture
def drawings(monkeypatch):
    """How often a scene was drawn."""
    calls = []

    def counted(rng, side):
        calls.append(side)
        return draw_scene(rng, side)

    monkeypatch.setattr("segpipe.data.datasets.shapes.draw_scene", counted)
    return calls


def shapes(**arguments):
    return Shapes(**{"split": "val", "val": 3, "side": 32} | arguments)


def read(dataset):
    return [dataset.read(index) for index in range(len(dataset))]


def equal(first, second):
    return all(
        np.array_equal(a, b)
        and a.dtype == b.dtype
        and a.shape == b.shape
        and b.flags.c_contiguous
        and b.flags.writeable
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def drawn(**arguments):
    return [draw_scene(np.random.default_rng((0, 1, index)), 32) for index in range(3)]


def parts(folder):
    return sorted(folder.glob("*"))


def test_scenes_are_drawn_once_and_then_read_to_the_bit(cache_folder, drawings):
    assert equal(drawn(), read(shapes()))
    assert len(drawings) == 3
    assert equal(drawn(), read(shapes()))
    assert len(drawings) == 3
    assert len(parts(cache_folder)) == 1


def test_nothing_is_written_before_all_are_drawn(cache_folder, drawings):
    shapes().read(0)
    assert parts(cache_folder) == []


@pytest.mark.parametrize("other", [{"side": 48}, {"val": 4}, {"seed": 1}, {"split": "test", "test": 3}], ids=str)
def test_other_scenes_are_not_taken_for_these(cache_folder, drawings, other):
    read(shapes())
    read(shapes(**other))
    assert len(drawings) == 3 + len(shapes(**other))
    assert len(parts(cache_folder)) == 2


def test_scenes_of_another_drawing_are_not_taken(cache_folder, drawings, monkeypatch):
    read(shapes())
    monkeypatch.setattr("segpipe.data.datasets.shapes.drawing", lambda: "with another library")
    read(shapes())
    assert len(drawings) == 6


def flip(content):
    middle = len(content) // 2  # in the second of three scenes
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "again"),
    [(flip, 1), (lambda content: content[:-1], 3), (lambda content: b"", 3), (lambda content: content + b"x", 3)],
    ids=["a bit", "cut", "empty", "longer"],
)
def test_what_is_damaged_is_drawn_again(cache_folder, drawings, damage, again):
    read(shapes())
    [path] = parts(cache_folder)
    path.write_bytes(damage(path.read_bytes()))
    assert equal(drawn(), read(shapes()))
    assert len(drawings) == 3 + again


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(cache_folder, drawings):
    cache_folder.write_text("a file where the folder should be")
    assert equal(drawn(), read(shapes()))
    assert equal(drawn(), read(shapes()))
    assert cache_folder.is_file()


def test_a_file_that_goes_away_is_no_reason_to_fail(cache_folder, drawings):
    read(shapes())
    dataset = shapes()
    dataset.read(0)
    parts(cache_folder)[0].unlink()
    assert equal(drawn(), read(dataset))


def test_what_would_be_too_large_is_not_kept(cache_folder, drawings, monkeypatch):
    monkeypatch.setattr(scenes, "LARGEST", 3 * (4 * 32 * 32 + 4) - 1)
    dataset = shapes()
    assert equal(drawn(), read(dataset))
    assert parts(cache_folder) == []
    assert dataset.scenes.drawn == {}


def test_files_written_longest_ago_make_room(cache_folder):
    for number, name in enumerate("abc"):
        cache.write_parts(name, [b"12", b"34"], together=8)
        os.utime(cache_folder / f"{name}.parts", (number, number))
    assert [path.stem for path in parts(cache_folder)] == ["b", "c"]
    assert cache.read_part("c", 2, 2, whole=4) == b"34"
    assert cache.read_part("c", 2, 2, whole=5) is None
    assert cache.read_part("c", 3, 2, whole=4) is None
    assert cache.read_part("a", 2, 2, whole=4) is None


@pytest.mark.parametrize("module", grid(MAY_LOAD, quick=[*LIGHT, "segpipe.models.network"]))
def test_what_needs_no_heavy_library_loads_none(module):
    code = f"import json, sys; import {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(done.stdout)) == MAY_LOAD[module]


@pytest.mark.slow
def test_training_loads_its_libraries_in_the_order_that_is_fast():
    code = """
import gc, json, sys
import segpipe.train
print(json.dumps([gc.isenabled(), gc.get_freeze_count(), list(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    enabled, frozen, modules = json.loads(done.stdout)
    assert done.stderr == ""
    assert enabled
    assert frozen > 100_000
    assert modules.index("wandb.apis.public") < modules.index("torch")


def left(code):
    whole = (
        f"import atexit\nfrom segpipe.engine.shutdown import exit_after\natexit.register(print, 'registered')\n{code}"
    )
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("main", "status"), [("lambda: None", 0), ("lambda: exit(3)", 3), ("lambda: exit()", 0), ("lambda: exit('x')", 1)]
)
def test_leaving_keeps_the_status_and_does_what_was_registered(main, status):
    done = left(f"exit_after({main})")
    assert (done.returncode, done.stdout.split()) == (status, ["registered"])


def test_leaving_waits_for_threads():
    done = left("""
import threading, time
exit_after(threading.Thread(target=lambda: (time.sleep(0.2), print("done"))).start)
""")
    assert done.stdout.split() == ["done", "registered"]


def test_an_error_is_shown_as_ever():
    done = left("exit_after(lambda: 1 / 0)")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_copy_of_the_process_leaves_what_was_registered_to_its_parent():
    done = left("""
import os
if pid := os.fork():
    print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    exit_after(lambda: exit(5))
""")
    assert done.stdout.split() == ["status", "5", "registered"]
