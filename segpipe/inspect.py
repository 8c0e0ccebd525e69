"""``python -m segpipe.inspect RUN [RUN ...] --image FILE --out FOLDER``: what each decoder does, layer by layer."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from segpipe.analysis.lab import page
from segpipe.config.messages import user_errors
from segpipe.data.dataset import Split
from segpipe.data.examples import file_names
from segpipe.data.files import check_pair
from segpipe.data.masks import read_mask
from segpipe.data.visualise import save_image
from segpipe.engine.inspection import inspect_runs, open_predictors
from segpipe.engine.predictor import Predictor, resolve_device
from segpipe.engine.split_measures import measure_split
from segpipe.errors import UserError, printable
from segpipe.lab import strip
from segpipe.lab.colours import map_to_rgb
from segpipe.lab.facts import Inspection, ShownImage
from segpipe.lab.split import Reason
from segpipe.runs.run import PYTHON, Run, display_path, quote_template, shell_line
from segpipe.runs.storage import check_can_write, inside, write_text
from segpipe.terminal import Parser

LIMIT = 40  # images of a split that are measured


def inspect(
    runs: Sequence[Path],
    *,
    out: Path,
    images: Sequence[Path] = (),
    masks: Sequence[Path] = (),
    sheets: bool = False,
    split: Split | None = None,
    limit: int = LIMIT,
    data: Sequence[str] = (),
    device: str | None = None,
    trust: Iterable[str] = (),
    command: str = "",
) -> Path:
    """Write ``inspect.html`` and PNG files of the maps of each run to ``out``. Returns the page.

    images: files; each goes through every run. masks: their ground truth, class indices, in the same order; it may be
    missing. sheets: also write all channels of every map. split: also measure what needs a data set, on ``limit``
    images of it; results are kept in ``out/cache``. data: overrides of the data, as for ``segpipe.evaluate``. command:
    is printed on the page. Raises UserError for an input that cannot be used, before anything is written; a run without
    weights is named on the page.
    """
    if limit < 1:
        raise UserError(f"--limit {limit}: allowed is a number of images of 1 or more.")
    if device is not None:
        resolve_device(device)
    check_can_write(out, f"--out {out}")
    predictors = open_predictors(runs, device=device, trust=trust)
    shown = read_images(images, masks, predictors)
    inspection = inspect_runs(runs, predictors, shown, all_channels=sheets, report=lambda text: print(printable(text)))
    more = []
    if split is not None:
        measures = measure_split(predictors, overrides=list(data), split=split, limit=limit, folder=out, trust=trust)
        more = page.split_sections(measures)
    write_pictures(inspection, out, sheets=sheets)
    write_text(inside(out, "inspect.html"), page.render(inspection, more, command=command))
    return out / "inspect.html"


def default_out(runs: Sequence[Path]) -> Path:
    """Return the folder to write to: ``inspect`` in the folder of a single run, else in the working folder."""
    return Run.open(runs[0]).inspection.parent if len(runs) == 1 else Path("inspect")


def read_images(
    images: Sequence[Path], masks: Sequence[Path], predictors: Sequence[Predictor | Reason]
) -> list[ShownImage]:
    """Return the images with their masks, as the networks take them.

    Raises UserError where a file cannot be read, where sizes differ, or where the runs take images of different bands.
    """
    usable = [one for one in predictors if isinstance(one, Predictor)]
    if images and any(one.bands != usable[0].bands for one in usable):
        raise UserError("The runs were trained on images of different bands or ranges. Inspect each run alone.")
    if masks and len(masks) != len(images):
        raise UserError(
            f"{len(masks)} masks for {len(images)} images: give one --mask for each --image, in the same order, or "
            "none."
        )
    shown = []
    for number, path in enumerate(images):
        image = usable[0].as_input(path)
        truth = read_mask(masks[number]) if masks else None
        if truth is not None and truth.shape != image.shape[:2]:
            raise UserError(
                f"{masks[number]}: {truth.shape[0]} x {truth.shape[1]} pixels; its image {path} has {image.shape[0]} x "
                f"{image.shape[1]}. Give the mask of this image."
            )
        if truth is not None:
            check_pair(image, truth, len(usable[0].classes), path, masks[number])
        shown.append(ShownImage(printable(path.name), image, truth))
    return shown


def write_pictures(inspection: Inspection, out: Path, *, sheets: bool) -> None:
    """Write the figures of the climb, and every map at its own resolution."""
    runs = file_names([run.label for run in inspection.runs])
    names = file_names([Path(image.name).stem for image in inspection.images])
    for number, name in enumerate(names):
        save_image(strip.climb_figure(inspection, number), inside(out, f"climb-{name}.png"))
        for folder, run in zip(runs, inspection.runs, strict=True):
            if run.reason:
                continue
            save_image(strip.panels_figure(inspection, run, number), inside(out, f"panels-{name}-{folder}.png"))
            for rung in run.images[number].rungs:
                file = f"{name}-{rung.stride:02}-{rung.slot.replace(' ', '-')}"
                save_image(map_to_rgb(rung.values), inside(out, f"maps/{folder}/{file}.png"))
                if sheets:
                    save_image(strip.sheet(rung), inside(out, f"maps/{folder}/{file}-all.png"))


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m segpipe.inspect", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folders of runs, shown side by side")
    parser.add_argument("--image", type=Path, action="append", default=[], help="an image; may be repeated")
    parser.add_argument("--mask", type=Path, action="append", default=[], help="the ground truth of each image, if any")
    parser.add_argument(
        "--split",
        choices=get_args(Split),
        help="also measure what needs a data set: skips, operators, probes, failures",
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help="number of images of the split (default: %(default)s)")
    parser.add_argument(
        "--data",
        nargs="+",
        type=quote_template,
        default=[],
        metavar="OVERRIDE",
        help="as for train: data=camvid data.root=...",
    )
    parser.add_argument(
        "--out", type=Path, help="the folder to write to (default: inspect, in the run's folder if there is only one)"
    )
    parser.add_argument("--sheets", action="store_true", help="also write all channels of every map")
    parser.add_device()
    parser.add_trust(whose="the runs")
    given = parser.parse_args()
    with user_errors():
        written = inspect(
            given.runs,
            out=given.out or default_out(given.runs),
            images=given.image,
            masks=given.mask,
            sheets=given.sheets,
            split=given.split,
            limit=given.limit,
            data=given.data,
            device=given.device,
            trust=given.trust,
            command=shell_line([PYTHON, "-m", "segpipe.inspect", *sys.argv[1:]]),
        )
        print(f"Written: {display_path(written)}")


if __name__ == "__main__":
    main()
