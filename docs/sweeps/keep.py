"""Keep of a sweep what a report reads: ``python docs/sweeps/keep.py outputs/sweeps/NAME`` fills ``docs/sweeps/NAME``.

It may be given again and again while the sweep runs: what is kept already stays as it is. To go on with a sweep
elsewhere, ``python docs/sweeps/keep.py --restore docs/sweeps/NAME outputs/sweeps/NAME`` copies the runs back into the
sweep's folder, where they count as finished.

Checkpoints, contact sheets, logs and W&B's files stay behind; so do the machine's name and the paths on it. Of the
example pictures, predictions are kept of the lowest seed, photos and truths once, and of drawn scenes only; of what was
counted at boundaries, picture by picture, the scores that a report compares. ``README.md`` beside the runs shows each
cell's mean test mIoU and its standard deviation over seeds.

With ``--archive`` the runs are in one file, ``docs/sweeps/NAME.zip``, and the table is ``docs/sweeps/NAME.md``.
"""

import argparse
import itertools
import math
import re
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from segpipe.analysis.page.boundaries import COMPARED
from segpipe.config.schema import CONF, key_of
from segpipe.runs import archive, cells
from segpipe.runs.archive import as_folder
from segpipe.runs.run import Run, remove_if_empty
from segpipe.runs.storage import read_json, write_json, write_text

COPIED = ("metrics.json", "history.csv", "confusion/val.npz", "confusion/test.npz")
AT_BOUNDARIES = ("names", *COMPARED)
ONCE = (".jpg", ".truth.png")  # of an example picture, what is the same for all runs
OF_THE_MACHINE = ("host", "pid")
TUNED = "tuned.cells"  # what segpipe.tune has written, where it has
PARTS = ("decoder", "fusion")  # keys that a command often replaces in an experiment
KNOWN = ("seed", "model", "model.stride", "decoder", "fusion", "match", "data.root")  # that need no word of their own
FUSIONS = ("none", "sum", "concat")


def keep(run: Run, target: Path) -> None:
    """Copy a run; what is left of an older copy goes."""
    shutil.rmtree(target, ignore_errors=True)
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
    write_text(target / "config.yaml", OmegaConf.to_yaml(without_paths(OmegaConf.to_container(config))))
    record = {key: value for key, value in run.record.items() if key not in OF_THE_MACHINE}
    write_json(target / "run.json", without_paths(record))


def without_paths(content: Any) -> Any:
    """A copy in which absolute paths are their last part, in overrides as well: ``data.root=camvid``."""
    if isinstance(content, dict):
        return {key: without_paths(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_paths(value) for value in content]
    if not isinstance(content, str):
        return content
    if content.startswith("/"):
        return Path(content).name
    content = re.sub(r"(=['\"])/[^'\"\n]*/", r"\1", content)
    return re.sub(r"=/(?:[^\s'\"]*/)?", "=", content)


def keep_examples(run: Run, target: Path, *, whole: bool) -> None:
    """Copy a run's example pictures. whole: photos and truths as well."""
    for path in sorted(run.examples.glob("*")) if run.examples.is_dir() else []:
        if whole or not path.name.endswith(ONCE):
            (target / "pictures" / "examples").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / "pictures" / "examples" / path.name)


def table(finished: list[cells.Cell], folder: Path) -> str:
    """Mean test mIoU, percent, and standard deviation of finished cells, by stride and decoder.

    What else tells the cells apart, a learning rate say, has rows of its own; so have tuning seeds.
    """
    found: dict[tuple[int, str, str], dict[str, list[float]]] = {}
    for cell, other in zip(finished, others(finished, cells.read_tuning_seeds(folder) or []), strict=True):
        miou = read_json(Run(folder / str(cell.run)).metrics)["test"]["miou"]
        row = found.setdefault((cell.choices["stride"], cell.choices["decoder"], other), {})
        row.setdefault(cell.choices["fusion"], []).append(100 * miou)
    fusions = [*dict.fromkeys(fusion for scores in found.values() for fusion in scores)]
    fusions = [*(FUSIONS if {*FUSIONS} & {*fusions} else ()), *(name for name in fusions if name not in FUSIONS)]
    strides = sorted({stride for stride, _, _ in found}, reverse=True)
    decoders = list(dict.fromkeys(decoder for _, decoder, _ in found))
    rest = list(dict.fromkeys(other for _, _, other in found))
    beside = rest != [""]
    lines = [
        "| stride | decoder | " + "other | " * beside + " | ".join(fusions) + " |",
        "|---" * (2 + beside + len(fusions)) + "|",
    ]
    for row in (row for row in itertools.product(strides, decoders, rest) if row in found):
        stride, decoder, other = row
        scores = [spread(found[row].get(fusion, [])) for fusion in fusions]
        lines.append(f"| {stride} | `{decoder}` | " + f"{other} | " * beside + " | ".join(scores) + " |")
    return "\n".join(lines)


def others(finished: list[cells.Cell], tuning_seeds: list[int]) -> list[str]:
    """What tells each cell from the rest beside stride, decoder, fusion and seed; nothing where nothing does."""
    models = {(cell.choices["model"], cell.choices["stride"]) for cell in finished}
    words = [
        {
            **({"model": cell.choices["model"]} if len(models) > len({stride for _, stride in models}) else {}),
            "match": str(cell.choices.get("match")),
            **{key_of(word): word.partition("=")[2] for word in cell.overrides if key_of(word) not in KNOWN},
        }
        for cell in finished
    ]
    told = [key for key in dict.fromkeys(itertools.chain(*words)) if len({each.get(key) for each in words}) > 1]
    return [
        " ".join(
            [f"`{key}={each.get(key)}`" for key in told] + ["(tuning seeds)"] * (cell.choices["seed"] in tuning_seeds)
        )
        for cell, each in zip(finished, words, strict=True)
    ]


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main(source: Path) -> None:
    """See the module."""
    target = Path(__file__).parent / sweep_name(source)
    listed = cells.read(source)
    finished = [cell for cell in listed if cells.status(source, cell) == "finished"]
    runs = sorted({str(cell.run) for cell in finished})
    if lost := sorted({path.parent.name for path in target.glob("*/run.json")} - set(runs)):
        sys.exit(
            f"{target}: {len(lost)} of the runs kept there are not in {source} ({lost[0]}, say). Copy them back first, "
            f"keep.py --restore {target} {source}; or remove {target}."
        )
    lowest = min(cell.choices["seed"] for cell in finished) if finished else 0
    predicting = sorted({str(cell.run) for cell in finished if cell.choices["seed"] == lowest})
    with_photos = [name for name in predicting if may_be_passed_on(Run(source / name))]
    for name in runs:
        run = Run(source / name)
        keep(run, target / name)
        if name in predicting:
            keep_examples(run, target / name, whole=name in with_photos[:1])
    write_json(target / "sweep.json", without_paths(read_json(source / "sweep.json")))
    if (source / TUNED).is_file():
        write_text(target / TUNED, without_paths((source / TUNED).read_text(encoding="utf-8")))
    done = f"{len(finished)} of {len(listed)} cells finished, {len(runs)} runs."
    about = f"`{command_of(source, listed)}`, whose cells are in `sweep.json`: {done}"
    what = "Test mIoU in percent, mean ± standard deviation over seeds"
    report = f"`python -m segpipe.report docs/sweeps/{source.name}{tuned_option(source)}` tests the differences."
    text = f"# {source.name}\n\n{about}\n{what}. {report}\n\n{table(finished, source)}\n"
    write_text(target / "README.md", text)
    print(f"{target}: {len(runs)} runs")


def tuned_option(source: Path) -> str:
    """The option ``--tuned KEY ...`` of the report, with the keys that segpipe.tune has chosen; "" where it has not."""
    file = source / TUNED
    found = re.search(r"segpipe\.tune \S+ ([^`]+)`", file.read_text(encoding="utf-8")) if file.is_file() else None
    return "".join(f" --tuned {key}" for key in found[1].split()) if found else ""


def command_of(source: Path, listed: list[cells.Cell]) -> str:
    """The command that trains a sweep; of a sweep that was tuned, the first one.

    Values of its keys are left out where they are those of its experiment, or where the cells are no product of them.
    """
    values: dict[str, list[str]] = {}
    for word in itertools.chain.from_iterable(cell.overrides for cell in listed):
        key, _, value = word.partition("=")
        if key != "data.root" and value not in values.setdefault(key, []):
            values[key].append(value)
    experiment = [f"experiment={value}" for value in sorted(values.pop("experiment", []))]
    if experiment == [f"experiment={source.name}"]:
        own = OmegaConf.load(CONF / "experiment" / f"{source.name}.yaml").hydra.sweeper.params
        other = [
            f"{key}={','.join(values[key])}"
            for key in PARTS
            if key in values and {*values[key]} != {*str(own.get(key)).split(",")}
        ]
        return " ".join(["python -m segpipe.train", *experiment, *other])
    product = math.prod(map(len, values.values())) == len(listed)
    given = [f"{key}={','.join(of_key)}" for key, of_key in values.items()] if product else []
    return " ".join(["python -m segpipe.train", *experiment, *given, f"sweep.name={source.name}"])


def pack(target: Path) -> None:
    """Replace a folder of kept runs by an archive and a page beside it."""
    file = target.with_suffix(archive.SUFFIX)
    archive.write(target, file)
    page = (target / "README.md").read_text(encoding="utf-8")
    command = f"`python -m segpipe.report docs/sweeps/{target.name}"
    link = f"The runs are in `{file.name}`; {command}{archive.SUFFIX}"
    write_text(target.with_suffix(".md"), page.replace(command, link, 1))
    shutil.rmtree(target)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


def may_be_passed_on(run: Run) -> bool:
    """Whether a run has photos and truths of its examples, and they are drawn: others' images stay where they are."""
    return OmegaConf.load(run.config).data.name == "shapes" and any(run.examples.glob("*.jpg"))


def restore(kept: Path, folder: Path) -> None:
    """Copy the runs that were kept, and the list of cells, into a sweep's folder; what is there already stays."""
    kept = as_folder(kept)  # of an archive, too
    sweep_name(kept)
    new = 0
    for path in sorted(path.parent for path in kept.glob("*/run.json")):
        remove_if_empty(folder / path.name)
        if not (folder / path.name).exists():
            part = folder / f".{path.name}.part"  # a copy that was interrupted counts for nothing
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(path, part)
            part.rename(folder / path.name)
            new += 1
    of_kept = cells.read(kept)
    requested = {cell.place for cell in of_kept}
    known = cells.CellList(cells.read(folder), requested)
    seeds = cells.read_tuning_seeds(folder) or cells.read_tuning_seeds(kept)
    if unlisted := [cell for cell in of_kept if not known.find(cell)]:
        cells.add(folder, *unlisted, tuning_seeds=seeds, requested=requested)
    if (kept / TUNED).is_file() and not (folder / TUNED).exists():
        shutil.copyfile(kept / TUNED, folder / TUNED)
    print(f"{folder}: {new} runs restored. To go on: the sweep's command with sweep.name={folder.name}")


def sweep_name(folder: Path) -> str:
    """The name of a sweep's folder; ends the program where it is none."""
    if not folder.name or not (folder / "sweep.json").is_file():
        sys.exit(f"{folder}: not a sweep. Give its folder, outputs/sweeps/NAME or docs/sweeps/NAME.")
    return folder.name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restore", type=Path, metavar="KEPT", help="copy from there into the sweep's folder instead")
    parser.add_argument("--archive", action="store_true", help="keep one file and a table, not a folder")
    parser.add_argument("sweep", type=Path, help="a sweep's folder, outputs/sweeps/NAME")
    given = parser.parse_args()
    if given.restore:
        restore(given.restore, given.sweep)
    else:
        main(given.sweep)
        if given.archive:
            pack(Path(__file__).parent / sweep_name(given.sweep))
