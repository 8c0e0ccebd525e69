"""Read an offline ``run-*.wandb`` file back, without a network and without W&B's private readers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record

HEADER = b":W&B\xe1\xbe\x00"


BLOCK = 32 * 1024


FULL, FIRST, LAST = 1, 2, 4  # kinds of a chunk; one in the middle of a record is a 3


class WandbFile(NamedTuple):
    """What a run told W&B: its start, a dict for each row of the history, the last summary, the exit status."""

    path: Path
    name: str
    run_id: str
    group: str
    tags: list[str]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    axes: dict[str, str]  # of a chart, by the pattern of the metrics it is for
    exit_code: int | None  # None: the run was never ended


def wandb_files(folder: Path) -> list[Path]:
    """The ``.wandb`` files below a run's folder, oldest first."""
    return sorted(folder.glob("wandb/*run-*/run-*.wandb"))


def read_wandb(folder: Path) -> WandbFile:
    """Read the one ``.wandb`` file below a run's folder."""
    (path,) = wandb_files(folder)
    found: dict[str, Any] = {"path": path, "config": {}, "history": [], "summary": {}, "axes": {}, "exit_code": None}
    for record in records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"name": run.display_name, "run_id": run.run_id, "group": run.run_group, "tags": list(run.tags)}
            found["config"] |= values(run.config.update)
        elif kind == "config":
            found["config"] |= values(record.config.update)
        elif kind == "history":
            found["history"].append(values(record.history.item))
        elif kind == "summary":
            found["summary"] |= values(record.summary.update)
        elif kind == "metric":
            found["axes"][record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "exit":
            found["exit_code"] = record.exit.exit_code
    return WandbFile(**found)


def values(items: Any) -> dict[str, Any]:
    """Key to value of items, whose values are JSON; a nested key has its parts joined by slashes."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def records(content: bytes) -> Iterator[Record]:
    """Records of a LevelDB log: chunks of crc (4), length (2) and kind (1), none across a block of 32 KiB."""
    assert content.startswith(HEADER), "not a .wandb file"
    position, begun = len(HEADER), b""
    while position < len(content):
        left = BLOCK - position % BLOCK
        if left < 7:  # too short for a chunk's header: filled with zeros
            position += left
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind, body = content[position + 6], content[position + 7 : position + 7 + length]
        begun = body if kind in (FULL, FIRST) else begun + body
        if kind in (FULL, LAST):
            yield Record.FromString(begun)
        position += 7 + length
