"""Keep of a sweep what a report reads: ``python docs/sweeps/keep.py outputs/sweeps/NAME`` fills ``docs/sweeps/NAME``.

Checkpoints, contact sheets, logs and W&B's files stay behind; so do the machine's name and the paths on it. Of the
example pictures, predictions are kept of the lowest seed, photos and truths once; of what was counted at boundaries,
picture by picture, the scores that a report compares. ``README.md`` beside the runs shows the mean test mIoU of each
cell and its standard deviation over seeds.
"""

import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from segpipe import cells
from segpipe.analysis.edges import COMPARED
from segpipe.runs import Run
from segpipe.storage import read_json, write_json, write_text

COPIED = ("metrics.json", "history.csv", "confusion/val.npz", "confusion/test.npz")
AT_BOUNDARIES = ("names", *COMPARED)
ONCE = (".jpg", ".truth.png")  # of an example picture, what is the same for all runs
OF_THE_MACHINE = ("host", "pid")
FUSIONS = ("none", "sum", "concat")


def keep(run: Run, target: Path) -> None:
    """Copy a run."""
    for name in COPIED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.folder / name, target / name)
    if run.boundaries("test").is_file():  # runs of before they were counted have none
        Run(target).boundaries("test").parent.mkdir()
        with np.load(run.boundaries("test")) as file:
            np.savez_compressed(Run(target).boundaries("test"), **{name: file[name] for name in AT_BOUNDARIES})
    config = OmegaConf.load(run.config)
    config.run_dir = run.folder.name
    for name in ("best", "last"):
        config.callbacks[name].dirpath = f"{run.folder.name}/checkpoints"
    config.resume = None
    write_text(target / "config.yaml", OmegaConf.to_yaml(config))
    write_json(target / "run.json", {key: value for key, value in run.record.items() if key not in OF_THE_MACHINE})


def keep_examples(run: Run, target: Path, *, whole: bool) -> None:
    """Copy a run's example pictures. whole: photos and truths as well."""
    for path in sorted(run.examples.glob("*")) if run.examples.is_dir() else []:
        if whole or not path.name.endswith(ONCE):
            (target / "pictures" / "examples").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / "pictures" / "examples" / path.name)


def table(folder: Path, finished: list[cells.Cell]) -> str:
    """Mean test mIoU, percent, and standard deviation of finished cells, by stride and decoder."""
    found: dict[tuple[int, str, str], list[float]] = {}
    for cell in finished:
        miou = read_json(Run(folder / str(cell.run)).metrics)["test"]["miou"]
        found.setdefault(tuple(cell.choices[key] for key in ("stride", "decoder", "fusion")), []).append(100 * miou)
    strides = sorted({stride for stride, _, _ in found}, reverse=True)
    decoders = list(dict.fromkeys(decoder for _, decoder, _ in found))
    lines = ["| stride | decoder | " + " | ".join(FUSIONS) + " |", "|---|---|---|---|---|"]
    for stride in strides:
        for decoder in decoders:
            row = [found.get((stride, decoder, fusion), []) for fusion in FUSIONS]
            lines.append(f"| {stride} | `{decoder}` | " + " | ".join(map(spread, row)) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main(source: Path) -> None:
    """See the module."""
    if not source.name or not (source / "sweep.json").is_file():
        sys.exit(f"{source}: not a sweep. Give its folder, outputs/sweeps/NAME.")
    target = Path(__file__).parent / source.name
    shutil.rmtree(target, ignore_errors=True)
    listed = cells.read(source)
    finished = [cell for cell in listed if cells.status(source, cell) == "finished"]
    runs = sorted({str(cell.run) for cell in finished})
    lowest = min(cell.choices["seed"] for cell in finished) if finished else 0
    predicting = sorted({str(cell.run) for cell in finished if cell.choices["seed"] == lowest})
    for name in runs:
        run = Run(source / name)
        keep(run, target / name)
        if name in predicting:
            keep_examples(run, target / name, whole=name == predicting[0])
    write_json(target / "sweep.json", read_json(source / "sweep.json"))
    done = f"{len(finished)} of {len(listed)} cells finished, {len(runs)} runs."
    about = f"`python -m segpipe.train experiment={source.name}`: {done}"
    what = "Test mIoU in percent, mean ± standard deviation over seeds; which differences are real is not said here."
    write_text(target / "README.md", f"# {source.name}\n\n{about}\n{what}\n\n{table(source, finished)}\n")
    print(f"{target}: {len(runs)} runs")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
