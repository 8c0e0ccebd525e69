"""W&B's agent trains what ``examples/wandb_sweep.yaml`` says, with the values that a server of our own chooses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.configs import TINY
from support.paths import ROOT
from support.wandb_server import KEY, Handler, Server

pytestmark = pytest.mark.slow
TRIALS = {
    "first": {"decoder": "unpool", "fusion": "concat", "optimizer.lr": 0.003, "trainer.max_epochs": 2},
    "last": {"decoder": "nearest", "fusion": "sum", "optimizer.lr": 0.01, "trainer.max_epochs": 2},
}
STOPPED = {"stopped": {"decoder": "bilinear", "fusion": "sum", "optimizer.lr": 0.02, "trainer.max_epochs": 10_000}}


class SweepHandler(Handler):
    """Gives an agent the trials of a sweep, one at a time, and stops those of STOPPED once they have a score."""

    def data(self, query, variables):
        server = self.server
        if "SweepWithRuns" in query:
            sweep = {"id": "s", "name": "abc", "config": yaml.safe_dump(server.sweep), "runs": {"edges": []}}
            return {"data": {"project": {"sweep": sweep}}}
        if "createAgent" in query:
            return {"data": {"createAgent": {"agent": {"id": "a"}}}}
        if "agentHeartbeat" in query:
            commands = json.dumps(self.commands(json.loads(variables["runState"])))
            return {"data": {"agentHeartbeat": {"agent": {"id": "a"}, "commands": commands}}}
        if "UpsertBucket" in query:
            server.runs.setdefault(variables["name"], variables)
        return super().data(query, variables)

    def commands(self, states):
        running = [name for name, runs in states.items() if runs]
        if not running and self.server.waiting:
            name, values = self.server.waiting.pop(0)
            given = {key: {"value": value} for key, value in values.items()}
            return [{"type": "run", "run_id": name, "program": None, "args": given}]
        scored = "val/miou" in "".join(self.server.streamed)
        return [{"type": "stop", "run_id": name} for name in running if name in STOPPED and scored]


def test_an_agent_trains_the_trials_of_the_example(tmp_path):
    server = Server(SweepHandler)
    server.sweep = yaml.safe_load((ROOT / "examples" / "wandb_sweep.yaml").read_text())
    assert server.sweep["command"][-1] == "${args_no_hyphens}"
    server.sweep["command"][-1:-1] = [
        choice for choice in TINY if choice not in ("logger=none", "trainer.max_epochs=2")
    ]
    server.waiting, server.runs = list({**STOPPED, **TRIALS}.items()), {}
    environment = os.environ | {
        "WANDB_API_KEY": KEY,
        "WANDB_BASE_URL": server.url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    agent = ["wandb", "agent", "--count", str(len(server.waiting)), "me/segpipe/abc"]
    with (tmp_path / "output.txt").open("w") as output:
        subprocess.run(agent, cwd=tmp_path, env=environment, stdout=output, stderr=output, timeout=600, check=True)
    server.shutdown()
    server.server_close()

    runs = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/runs/*/run.json")]
    assert sorted(run["status"] for run in runs) == ["finished", "finished", "interrupted"]
    for name, values in {**TRIALS, **STOPPED}.items():
        (run,) = (run for run in runs if {f"{k}={v}" for k, v in values.items()} <= {*run["overrides"]})
        assert run["status"] == ("interrupted" if name in STOPPED else "finished")
        assert server.runs[name]["sweep"] == "abc"
