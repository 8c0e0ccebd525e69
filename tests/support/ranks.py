"""Shared by the tests that were test_ranks.py."""

import json

from support import commands
from support.configs import TINY

SMALL = [choice for choice in TINY if choice not in ("trainer=cpu", "logger=none", "data.eval_batch_size=4")]


DRIVER = """
import sys, json
import segpipe.train  # before all that are forked from here
from segpipe.engine.processes import ChildProcess, end
from pathlib import Path
for group in json.loads(sys.argv[1]):
    children = {
        name: ChildProcess([*choices, f"hydra.run.dir={name}"], log=Path(f"{name}.txt")) for name, choices in group
    }
    for name, child in children.items():
        Path(f"{name}.pid").write_text(str(child.process.pid))
    for name, child in children.items():
        Path(f"{name}.status").write_text(str(child.wait()))
    end(children.values())
"""


def driver(folder, groups, *, before=""):
    """Trainings, each from a command line of its own, those of a group at once; in ``folder``/NAME.

    before: Python code that runs before them, in the process that they are forked from.
    """
    words = ["-c", DRIVER.replace("for group", f"{before}\nfor group", 1), json.dumps(groups)]
    return commands.forker().start(words, cwd=folder, environment=commands.without_wandb())


def record(folder):
    return json.loads((folder / "run.json").read_text())


def status(folder):
    return int(folder.with_suffix(".status").read_text())
