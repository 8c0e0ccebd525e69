"""Hostile and damaged run, sweep and data folders, through every command: ``python tests/fuzz.py [CASES] [SEED]``.

A case copies good folders, changes one file by a seeded mutation, and runs one command in a process of its own. It
fails if a planted file appears (code was run), if a file outside of the folders changes, if the command does not end
within SECONDS, or if it prints a traceback. ``faults/test_strangers.py`` runs it.
"""

import atexit
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import yaml
from support.configs import TINY, configure

SECONDS = float(os.environ.get("SEGPIPE_FUZZ_SECONDS", "20"))  # more on a busy machine
RUN, SWEEP, DATA, OUTSIDE = "run", "sweep", "data", "outside"


class Case:
    """One case. number: also the seed of its mutation. folder: with copies of the good folders."""

    def __init__(self, number, folder):
        self.random = random.Random(number)
        self.number, self.folder = number, folder
        self.planted = folder / "planted"
        self.outside = folder / OUTSIDE

    def hostile_targets(self):
        """Nodes that would write the planted file, if their class was imported and called."""
        planted, module = str(self.planted), str(self.folder / RUN / "evil.py")
        Path(module).write_text(f"open({planted!r}, 'w').close()\nclass Evil:\n    pass\n")
        return [
            {"_target_": "os.system", "command": f"touch {planted}"},
            {"_target_": "builtins.open", "file": planted, "mode": "w"},
            {"_target_": "pathlib.Path.touch", "self": planted},
            {"_target_": "subprocess.run", "args": ["touch", planted]},
            {"_target_": "torch.load", "f": "x.pt", "weights_only": False},
            {"_target_": "evil.Evil"},
            {"_target_": "hydra.utils.call", "config": {"_target_": "os.system", "command": f"touch {planted}"}},
            {"_target_": "segpipe.runs.storage.write_text", "path": planted, "text": "x"},
            {"_target_": "builtins.eval", "_args_": [f"open({planted!r}, 'w')"]},
            {"_target_": 5},
            {"_target_": None},
            {"_target_": ["os.system"]},
        ]

    def values(self):
        """Values that a file may hold in place of any other."""
        return [
            None, True, -1, 0, 10**7, 10**18, 1e308, float("nan"), "", "../../x", "/etc/passwd", "a" * 100_000, [], {},
            ["x"] * 20_000, "\x1b]0;owned\x07\x1b[31m", "[/cell][bold]", "${oc.env:HOME}", "???", "=cmd|' /C calc'!A0",
            {"_target_": "os.system", "command": f"touch {self.planted}"}, "\u202egnp.exe", [[[]]], "\ud800",
        ]  # fmt: skip


def leaves(content, path=()):
    """Yield the path of every value below nested dicts and lists."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from leaves(value, (*path, key))


def change(content, path, value):
    """Set the value at a path."""
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def mutate_config(case, path):
    """A node that runs code, a value of another kind, an alias bomb, or an interpolation."""
    content = yaml.safe_load(path.read_text())
    kind = case.random.randrange(4)
    places = list(leaves(content))
    if kind == 0:
        change(content, case.random.choice(places), case.random.choice(case.hostile_targets()))
    elif kind == 1:
        change(content, case.random.choice(places), case.random.choice(case.values()))
    elif kind == 2:
        targets = [place for place in places if place[-1] == "_target_"]
        change(content, case.random.choice(targets), case.random.choice(case.hostile_targets())["_target_"])
    else:
        nine = "a: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"a{i}: &a{i} [{','.join(9 * [f'*a{i - 1}'])}]\n" for i in range(1, 12)
        )
        path.write_text(nine + path.read_text() if case.random.random() < 0.5 else "{" * 50_000)
        return
    try:
        path.write_text(yaml.safe_dump(content))
    except UnicodeEncodeError:
        path.write_bytes(b"a: \xed\xa0\x80\n")


def mutate_json(case, path):
    """A value of another kind, or none of the file's structure."""
    content = json.loads(path.read_text())
    if case.random.random() < 0.15:
        path.write_text(case.random.choice(["[" * 100_000, "[]", '{"a": NaN}', "{}", "", "\ufeff{}", '{"cells": 3}']))
        return
    change(content, case.random.choice(list(leaves(content))), case.random.choice(case.values()))
    path.write_text(json.dumps(content))


def mutate_arrays(case, path):
    """Pickled objects, a header that promises more than there is, a bomb, counts that are none."""
    with np.load(path) as file:
        arrays = dict(file)
    name = case.random.choice(list(arrays))
    kind = case.random.randrange(6)
    if kind == 0:
        arrays[name] = np.array([Planting(case)], dtype=object)
    elif kind == 1 and arrays[name].dtype.kind in "iu":
        arrays[name] = arrays[name] - 5
    elif kind == 2:
        arrays[name] = np.full(arrays[name].shape, np.nan)
    elif kind == 3:
        del arrays[name]
    elif kind == 4:
        arrays[name] = arrays[name].astype(bool)
    if kind < 5:
        np.savez(path, **arrays)
        return
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", header.getvalue() + bytes(10**8 if case.random.random() < 0.5 else 100))


class Planting:
    """Unpickling it writes the planted file."""

    def __init__(self, case):
        self.case = case

    def __reduce__(self):
        return os.system, (f"touch {self.case.planted}",)


def mutate_checkpoint(case, path):
    """A pickle that runs code, weights that are none, paths that lead outside, a compressed archive."""
    checkpoint = torch.load(path, weights_only=True)
    name = case.random.choice(list(checkpoint["state_dict"]))
    kind = case.random.randrange(9)
    victim = case.outside / "keep.txt"
    if kind == 0:
        checkpoint = {"state_dict": Planting(case)}
    elif kind == 1:
        checkpoint["state_dict"][name] = torch.full_like(checkpoint["state_dict"][name].float(), float("nan"))
    elif kind == 2:
        checkpoint["state_dict"][name] = torch.ones(3, 5, dtype=case.random.choice([torch.bool, torch.complex64]))
    elif kind == 3:
        checkpoint.pop(case.random.choice(list(checkpoint)))
    elif kind == 4:
        checkpoint[case.random.choice(list(checkpoint))] = case.random.choice([None, 5, "x", [], {}])
    elif kind == 5:
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and "best_model_path" in state:
                state |= {key: str(victim) for key in ("best_model_path", "last_model_path", "kth_best_model_path")}
                state |= {"dirpath": str(case.outside), "best_k_models": {str(victim): torch.tensor(-1.0)}}
    elif kind == 6:
        path.write_bytes(path.read_bytes()[: case.random.randrange(path.stat().st_size)])
        return
    torch.save(checkpoint, path)
    if kind == 7:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content + bytes(10**7 if "data/" in entry else 0))
    elif kind == 8:
        content = bytearray(path.read_bytes())
        content[case.random.randrange(len(content))] ^= 1 << case.random.randrange(8)
        path.write_bytes(content)


def mutate_text(case, path):
    """A CSV file with other values."""
    words = ["", "x,y\n1", "epoch\nnan\n", "epoch,step\n1e999,--\n", "a" * 10**6, "\0\0", "epoch\n" + "9" * 5000]
    path.write_text(case.random.choice(words))


def mutate_image(case, path):
    """A file of another format under this name, a header that promises 3.6 gigapixels, an extreme shape."""
    kind = case.random.randrange(7)
    if kind == 0:
        path.write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch {case.planted}) (w) file\n")
    elif kind == 1:
        chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + bytes(4))
    elif kind == 2:
        PIL.Image.new("L", (case.random.choice([1, 100_000]), 1)).save(path, "PNG")
    elif kind == 3:
        path.write_bytes(path.read_bytes()[:50])
    elif kind == 4:
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    elif kind == 5:
        PIL.Image.new(case.random.choice(["1", "I;16", "F", "RGBA", "CMYK", "P"]), (64, 64)).save(path, "TIFF")
    else:
        path.write_bytes(case.random.randbytes(1000))


def replace_kind(case, path):
    """Something else in place of a file or folder: a named pipe, a folder, a link, a device."""
    kind = case.random.randrange(5)
    if path.is_dir():
        shutil.rmtree(path)
        kind = case.random.choice([0, 2, 3])
    else:
        path.unlink()
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(case.outside)
    elif kind == 3:
        path.symlink_to(case.outside / "keep.txt")
    else:
        path.symlink_to("/dev/zero")


MUTATIONS = {
    "config.yaml": mutate_config,
    "run.json": mutate_json,
    "metrics.json": mutate_json,
    "sweep.json": mutate_json,
    "classes.json": mutate_json,
    "history.csv": mutate_text,
    ".npz": mutate_arrays,
    ".ckpt": mutate_checkpoint,
    ".png": mutate_image,
}
WEIGHTS = {"config.yaml": 12, ".ckpt": 4, "run.json": 3, "sweep.json": 4}  # how often a file is chosen; others: 1


def commands(folder):
    """The commands that read each of the folders."""
    run, sweep, data, out = (folder / name for name in (RUN, SWEEP, DATA, "out"))
    load = f"import segpipe, numpy; segpipe.load({str(run)!r}, device='cpu')(numpy.zeros((40, 50, 3), 'uint8'))"
    scenes = ["data.dataset.test=4", "data.dataset.side=64", "data.workers=0"]
    guarded = f"import segpipe\ntry:\n {load}\nexcept segpipe.UserError as e: print(e)"
    quiet = ["logger=none", f"data.root={data}", "data.workers=0", "trainer=cpu", "trainer.max_epochs=1"]
    tiny = [*TINY, "trainer.max_epochs=1", "logger=none"]
    return {
        RUN: [
            ["-m", "segpipe.predict", run, folder / "photo.png", "--out", out, "--device", "cpu"],
            ["-m", "segpipe.evaluate", run, "--device", "cpu", "--data", *scenes],
            ["-c", guarded],
            ["-m", "segpipe.train", f"resume={run}", "trainer.max_epochs=2", "logger=none"],
            ["-m", "segpipe.train", f"warm_start={run}", *tiny, f"hydra.run.dir={out}"],
        ],
        SWEEP: [
            ["-m", "segpipe.report", sweep, "--resamples", "100", "--out", out],
            ["-m", "segpipe.tune", sweep, "optimizer.lr"],
        ],
        DATA: [
            ["-m", "segpipe.check_data", "data=folder", f"data.root={data}", "data.workers=0"],
            ["-m", "segpipe.predict", run, data, "--out", out, "--device", "cpu"],
            [
                "-m",
                "segpipe.train",
                "data=folder",
                *quiet,
                "encoder.widths=[4,4,4,4,4]",
                "neck=none",
                "data.crop=[32,32]",
            ],
        ],
    }


def paths(folder):
    """The files and folders that a mutation may change, each as often as its weight."""
    found = []
    for path in sorted(folder.rglob("*")):
        found += [path] * next((weight for name, weight in WEIGHTS.items() if path.name.endswith(name)), 1)
    return found


def mutate(case):
    """Change one file; return the command that reads its folder."""
    which = case.random.choices([RUN, SWEEP, DATA], [6, 3, 2])[0]
    path = case.random.choice(paths(case.folder / which))
    change_content = next((change for name, change in MUTATIONS.items() if path.name.endswith(name)), None)
    if change_content is None or path.is_dir() or case.random.random() < 0.15:
        replace_kind(case, path)
    else:
        change_content(case, path)
    return case.random.choice(commands(case.folder)[which]), path.relative_to(case.folder)


def digest(folder):
    """Everything that lies in a folder, with its content."""
    parts = [(str(path.relative_to(folder)), path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def prepare(folder):
    """Make the good folders: a run, a sweep of two runs, a data set, an image, and files that must not change."""
    from segpipe.config.plan import make_cell
    from segpipe.runs import cells
    from segpipe.train import train

    for seed, target in ((0, folder / SWEEP / "a"), (1, folder / SWEEP / "b")):
        cfg = configure(*TINY, f"seed={seed}", f"run_dir={target}")
        train(cfg)
        cells.add(folder / SWEEP, make_cell(cfg, [f"seed={seed}", "optimizer.lr=0.001"]), tuning_seeds=[])
    shutil.copytree(folder / SWEEP / "a", folder / RUN)
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / DATA / kind).mkdir(parents=True)
    for number in range(12):
        image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        PIL.Image.fromarray(image).save(folder / DATA / "images" / f"{number}.png")
        PIL.Image.fromarray((image[..., 0] > 127).astype(np.uint8)).save(folder / DATA / "masks" / f"{number}.png")
    (folder / DATA / "classes.json").write_text('["background", "thing"]')
    PIL.Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(folder / "photo.png")
    (folder / OUTSIDE).mkdir()
    (folder / OUTSIDE / "keep.txt").write_text("keep")


def run_case(number, good, folder):
    """Run one case; return what is wrong, as a text; an empty text if nothing is."""
    from support.commands import python

    shutil.copytree(good, folder, symlinks=True)
    case = Case(number, folder)
    words, path = mutate(case)
    before = digest(case.outside)
    environment = os.environ | {"SEGPIPE_CACHE": str(folder / "cache"), "WANDB_MODE": "offline"}
    about = f"case {number}: {path}: {' '.join(map(str, words[:3]))[:90]}: "
    try:
        done = python(words, cwd=folder, environment=environment, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return about + "still running"
    if case.planted.exists():
        return about + "code was run"
    if digest(case.outside) != before:
        return about + "a file outside was changed"
    if "Traceback" in done.stderr or done.returncode not in (0, 1):
        return about + f"status {done.returncode}\n{done.stderr[-1500:]}"
    if "\x1b]0;owned" in done.stdout + done.stderr:
        return about + "an escape sequence was printed"
    return ""


@cache
def prepared():
    """The good folders of this process."""
    folder = tempfile.TemporaryDirectory(prefix="segpipe-fuzz-")
    atexit.register(folder.cleanup)
    prepare(Path(folder.name) / "good")
    return Path(folder.name)


def fuzz(cases, *, seed=0):
    """Yield what is wrong with each case, or an empty text."""
    root = prepared()
    for number in range(seed, seed + cases):
        yield run_case(number, root / "good", root / "case")
        shutil.rmtree(root / "case", ignore_errors=True)


if __name__ == "__main__":
    count, first = (int(word) for word in [*sys.argv[1:], *["300", "0"][len(sys.argv) - 1 :]])
    wrong = 0
    for one in filter(None, fuzz(count, seed=first)):
        wrong += 1
        print(one, flush=True)
    print(f"{wrong} of {count} cases failed.")
    sys.exit(wrong > 0)
