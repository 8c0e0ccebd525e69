"""``python -m segpipe.predict RUN IMAGES --out FOLDER``: masks, coloured masks and overlays of your own images."""

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich.progress import Progress

from segpipe.config.messages import NO_SPACE, explain, user_errors
from segpipe.data.dataset import Image
from segpipe.data.find import IMAGE_SUFFIXES, identity, images_below
from segpipe.data.png import write_png
from segpipe.data.visualise import overlay
from segpipe.engine.georeference import WITHOUT, has_georeference, is_installed
from segpipe.engine.outputs import ENDINGS, MORE_ENDINGS, Outputs, Prediction, legend_of, with_legend
from segpipe.engine.prediction import EVERY, Eta, Loaded, Pipeline
from segpipe.engine.predictor import Predictor
from segpipe.engine.video import VIDEO_SUFFIXES, VideoFile, frame_rate, frames, is_video, number_of_frames
from segpipe.errors import UserError, nearest, one_line, pluralise, printable
from segpipe.models.tta import Flips
from segpipe.runs.storage import check_can_write
from segpipe.terminal import Parser

SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
LISTED = 50  # images: of more, not each one gets a line
FULL = 3  # images that a full disk may fail before the command ends
ASPECT = 1.1  # ratio of aspects from which a note says that images are distorted
MOST_FRAMES = 10_000  # of each video
VIDEO = ("masks", "overlay", "both")
FLIPS = ("mirror", "flips")
MOST_SCALES, SCALES = 9, (0.25, 4.0)


def predict(
    run: Path,
    images: dict[str, Path],
    out: Path,
    *,
    device: str | None = None,
    trust: Iterable[str] = (),
    flips: Flips = "none",
    scales: Iterable[float] = (1.0,),
    video: str = "masks",
    most_frames: int = MOST_FRAMES,
    **options: bool,
) -> int:
    """Write NAME_mask.png (class indices), NAME_colour.png and NAME_overlay.png below ``out`` for each image.

    images: path by name, as ``find_images`` returns them; a name may contain folders. flips, scales: see
    ``models.tta``. video, most_frames: what is written for a video, one of VIDEO, and of how many frames. options: of
    ``Outputs``, such as ``polygons=True``. Prints the three largest classes of each image if there are at most LISTED,
    the time that is left, and the error of an image that cannot be read, predicted or written.
    Returns the number of images that failed. Raises UserError where the disk is full, OSError where ``out`` cannot be
    written.
    """
    check_can_write(out, f"--out {out}")
    predictor = Predictor(run, device=device, trust=trust, flips=flips, scales=[*scales])
    out.mkdir(parents=True, exist_ok=True)
    outputs = Outputs(out, predictor.classes, predictor.palette, geo=is_installed(), **options)
    total = sum(min(most_frames, number_of_frames(path)) if is_video(path) else 1 for path in images.values())
    report = Report(predictor, outputs, total)
    videos = Videos(outputs, video)
    pipeline = Pipeline(predictor, outputs, report=report, advance=report.advance)

    def write(item: Loaded, found: Prediction) -> None:
        (videos.write if is_video(item.path) else pipeline.write_files)(item, found)

    def images_of(name: str, path: Path) -> Iterator[tuple[str, Image]]:
        if not is_video(path):
            yield from pipeline.read(name, path)
            return
        for number, frame in enumerate(frames(path, most=most_frames)):
            yield f"{name}/frame_{number:06}", predictor.as_input(frame)

    pipeline.write = write
    with videos, report.bar:
        pipeline.run(images, images_of)
    report.end()
    return report.failed


class Report:
    """Prints what happens to each image, and how long the rest will take."""

    def __init__(self, predictor: Predictor, outputs: Outputs, total: int) -> None:
        self.predictor, self.outputs, self.total = predictor, outputs, total
        self.done = self.failed = self.full = self.distorted = self.without_map = 0
        self.eta, self.printed = Eta(total), time.monotonic()
        self.bar = Progress(transient=True, disable=not sys.stdout.isatty())
        self.task = self.bar.add_task("Predicting", total=total)

    def __call__(self, item: Loaded, found: Prediction | None, error: Exception | None) -> None:
        """Report one image: its prediction, or its error."""
        self.done += 1
        if error is not None:
            self.report_error(item, error)
        elif found is not None:
            self.full = 0
            self.note(item)
            if self.total <= LISTED:
                shares = found.counts[: len(self.outputs.classes)] / found.mask.size
                largest = np.argsort(-shares, kind="stable")[:3]
                scores = ", ".join(f"{self.outputs.classes[index]} {shares[index]:.0%}" for index in largest)
                suffix = "" if is_video(item.path) else item.path.suffix
                print(one_line(f"[{self.done}/{self.total}] {item.name}{suffix}: {scores}"))
        self.advance(0)

    def report_error(self, item: Loaded, error: Exception) -> None:
        """Print the error of an image. Raises UserError if the disk has been full for the last images."""
        self.failed += 1
        message = str(explain(error))
        named = message if printable(item.path) in printable(message) else f"{item.path}: {message}"
        print(f"segpipe: {one_line(named)}", file=sys.stderr)
        self.full = self.full + 1 if getattr(error, "errno", None) in NO_SPACE else 0
        if self.full == FULL < self.total - self.done + FULL:
            raise UserError(
                f"--out {self.outputs.out}: the disk is full; {self.done - self.failed} of {self.total} images are "
                f"predicted. Free some space, or give another folder, then run the same command again."
            )

    def note(self, item: Loaded) -> None:
        """Print once what is to be known of images like this one."""
        if (size := self.predictor.size) is not None and item.image is not None:
            height, width = item.image.shape[:2]
            ratio = (height / width) / (size[0] / size[1])
            if max(ratio, 1 / ratio) > ASPECT:
                self.distorted += 1
                if self.distorted == 1:
                    print(
                        one_line(
                            f"Note: {item.name}: {height} x {width} pixels are resized to {size[0]} x {size[1]}, as in "
                            f"the test, which changes the aspect ratio by {max(ratio, 1 / ratio) - 1:.0%}. For better "
                            f"masks, cut images to the aspect ratio of the training."
                        )
                    )
        if not self.outputs.geo and has_georeference(item.path):
            self.without_map += 1
            if self.without_map == 1:
                print(one_line(f"Note: {item.path}: it {WITHOUT}"))

    def advance(self, share: float) -> None:
        """Show the progress. share: of the image that is being computed."""
        self.bar.update(self.task, completed=self.done + share)
        now = time.monotonic()
        if self.bar.disable and now - self.printed >= EVERY and self.done + share < self.total:
            self.printed = now
            print(f"{self.done} of {pluralise(self.total, 'image')}, {self.eta.left(self.done + share)}", flush=True)

    def end(self) -> None:
        """Print the result of all images."""
        if self.distorted > 1:
            print(f"Note: the aspect ratio of {self.distorted} images was changed.")
        print(f"{self.done - self.failed} of {self.done} images: masks in {self.outputs.out}/")


class Videos:
    """Writes the predictions of frames; a context that removes incomplete files after an error. kind: one of VIDEO."""

    def __init__(self, outputs: Outputs, kind: str) -> None:
        self.outputs, self.kind = outputs, kind
        self.files: dict[Path, VideoFile] = {}

    def write(self, item: Loaded, found: Prediction) -> None:
        """Write the mask of a frame, or a frame of the overlay video, or both."""
        outputs, mask = self.outputs, found.mask
        if self.kind in ("masks", "both"):
            write_png(outputs.path(item.name, "_mask.png"), [mask], mask.shape)
        if self.kind in ("overlay", "both") and item.image is not None:
            frame = overlay(item.image, mask, outputs.palette)
            frame = with_legend(frame, 0, legend_of(found.counts, mask.shape, outputs))
            if item.path not in self.files:
                path = outputs.path(item.name.rpartition("/")[0], "_overlay.mp4")
                self.files[item.path] = VideoFile(
                    path, rate=frame_rate(item.path), size=(frame.shape[0], frame.shape[1])
                )
            self.files[item.path].write(frame)

    def __enter__(self) -> Self:
        """Return the object."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        """Finish all files, or remove them after an error."""
        for file in self.files.values():
            file.close(keep=kind is None)


def find_images(paths: list[Path], *, out: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the given files and the images in and below the given folders, by name, and problems of single files.

    The name of an image in a folder is its path below that folder, without suffix; the name of a given file its stem.
    out: the folder that predictions are written to, which is not searched. Raises UserError where a path does not
    exist, where a folder has no images or is ``out``, or where two images have the same name.
    """
    images: dict[str, Path] = {}
    problems: list[str] = []
    for path in paths:
        if path.is_dir():
            if identity(path) == identity(out):
                raise UserError(
                    f"--out {out}: this is the folder of the images, so a second call would predict the masks of the "
                    f"first. Give another folder."
                )
            new, wrong = images_below(path, SUFFIXES, without=out)
            problems += wrong
            new = without_predictions(new)
            if not new:
                raise UserError(
                    f"{path}: no images in this folder. Allowed are {', '.join(sorted(SUFFIXES))}."
                    + "".join(f"\n{problem}" for problem in wrong[:3])
                )
        elif os.path.lexists(path):
            new = {path.stem: path}
        else:
            raise UserError(f"{path}: no such file or folder. Give images, or folders of images.")
        for name, image in new.items():
            if (other := images.setdefault(name, image)) != image:
                raise UserError(
                    f"{image} and {other}: their masks would have the same name. Predict them into two folders."
                )
    return images, problems


def without_predictions(images: dict[str, Path]) -> dict[str, Path]:
    """Return the images without those that an earlier call wrote: three of one name, with ENDINGS."""
    names = {name.removesuffix(ENDINGS[0]) for name in images if name.endswith(ENDINGS[0])}
    complete = {name for name in names if all(f"{name}{ending}" in images for ending in ENDINGS)}
    written = {f"{name}{ending}" for name in complete for ending in (*ENDINGS, *MORE_ENDINGS)} & images.keys()
    if written:
        print(f"{len(written)} files are left out: an earlier call wrote them.")
    return {name: path for name, path in images.items() if name not in written}


def chosen(option: str, given: str | None, allowed: Iterable[str]) -> Any:
    """Return the value of an option. Raises UserError where it is not one of those allowed."""
    if given is not None and given not in allowed:
        raise UserError(f"{option} {given}: allowed is {' or '.join(allowed)}.{nearest(given, allowed)}")
    return given


def read_scales(text: str) -> list[float]:
    """Return the numbers of ``--scales``. Raises UserError where they are not allowed."""
    try:
        scales = [float(word) for word in text.split(",")]
    except ValueError:
        scales = []
    if not 0 < len(scales) <= MOST_SCALES or not all(SCALES[0] <= scale <= SCALES[1] for scale in scales):
        raise UserError(
            f"--scales {text}: allowed are 1 to {MOST_SCALES} numbers from {SCALES[0]} to {SCALES[1]:g}, with commas "
            f"between them, for example 0.75,1,1.25."
        )
    return scales


def read_frames(text: str) -> int:
    """Return the number of ``--frames``. Raises UserError where it is not a number above 0."""
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 10**9:
        raise UserError(f"--frames {text}: allowed is a whole number above 0: the largest number of frames of a video.")
    return int(text)


def parse() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = Parser(prog="python -m segpipe.predict", description=__doc__)
    parser.add_argument(
        "run", type=Path, help="the folder of a run, or a file of segpipe.export or segpipe.archive --share"
    )
    parser.add_argument(
        "pictures", type=Path, nargs="+", help="images and videos, or folders, which are searched with their subfolders"
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("masks"), help="the folder to write to (default: masks)")
    parser.add_device(more="cpu for .onnx and .pt2")
    parser.add_trust()
    add("--tta", metavar="mirror|flips", help="average with the mirror image, or also upside down (4 passes)")
    add("--scales", default="1", metavar="LIST", help="average over sizes of the image: 0.75,1,1.25")
    add("--probabilities", action="store_true", help="NAME_probabilities.npy: float16 (classes, height, width)")
    add("--confidence", action="store_true", help="NAME_confidence.png: the largest probability of each pixel x 255")
    add("--polygons", action="store_true", help="NAME_polygons.geojson: the outline of each region")
    add("--no-legend", action="store_true", help="no legend on the lower border of the overlay")
    add("--video", default="masks", metavar="masks|overlay|both", help="of a video: a mask a frame (default), an MP4")
    add("--frames", default=str(MOST_FRAMES), metavar="N", help="the first N frames of a video (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """The command line."""
    given = parse()
    with user_errors():
        options = {
            "flips": chosen("--tta", given.tta, FLIPS) or "none",
            "scales": read_scales(given.scales),
            "video": chosen("--video", given.video, VIDEO),
            "most_frames": read_frames(given.frames),
            "show_legend": not given.no_legend,
            **{name: getattr(given, name) for name in ("probabilities", "confidence", "polygons")},
        }
        images, problems = find_images(given.pictures, out=given.out)
        for problem in problems:
            print(f"segpipe: {one_line(problem)}", file=sys.stderr)
        failed = predict(given.run, images, given.out, device=given.device, trust=given.trust, **options)
    sys.exit(int(failed > 0 or bool(problems)))


if __name__ == "__main__":
    main()
