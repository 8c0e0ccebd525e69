"""``python -m segpipe.predict RUN IMAGES --out FOLDER``: masks, coloured masks and overlays of your own images."""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from segpipe.config.messages import explain, user_errors
from segpipe.data.find import IMAGE_SUFFIXES, identity, images_below
from segpipe.data.visualise import colour_mask, overlay, save_image
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError, printable

ENDINGS = ("_mask", "_colour", "_overlay")


def predict(
    run: Path, images: dict[str, Path], out: Path, *, device: str | None = None, trust: Iterable[str] = ()
) -> int:
    """Write NAME_mask.png (class indices), NAME_colour.png and NAME_overlay.png below ``out`` for each image.

    images: path by name, as ``find_images`` returns them; a name may contain folders. Prints the three largest classes
    of each image, and the error of an image that cannot be read, predicted or written. Returns the number of images
    that failed.
    """
    predictor = Predictor(run, device=device, trust=trust)
    failed = 0
    for number, (name, path) in enumerate(images.items(), start=1):
        try:
            image = predictor.as_input(path)
            mask = predictor.mask(image)
            save_image(mask, out / f"{name}_mask.png")
            save_image(colour_mask(mask, predictor.palette), out / f"{name}_colour.png")
            save_image(overlay(image, mask, predictor.palette), out / f"{name}_overlay.png")
        except Exception as error:
            if (message := explain(error)) is None:
                raise
            failed += 1
            named = message if printable(path) in printable(message) else f"{path}: {message}"
            print(f"segpipe: {printable(named)}", file=sys.stderr)
            continue
        shares = {label: float((mask == index).mean()) for index, label in enumerate(predictor.classes)}
        largest = sorted(shares.items(), key=lambda item: -item[1])[:3]
        scores = ", ".join(f"{label} {share:.0%}" for label, share in largest)
        print(printable(f"[{number}/{len(images)}] {name}{path.suffix}: {scores}"))
    print(f"{len(images) - failed} of {len(images)} images: masks in {out}/")
    return failed


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
            new, wrong = images_below(path, IMAGE_SUFFIXES, without=out)
            problems += wrong
            new = without_predictions(new)
            if not new:
                raise UserError(
                    f"{path}: no images in this folder. Allowed are {', '.join(sorted(IMAGE_SUFFIXES))}."
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
    written = {
        f"{name}{ending}" for name in names if all(f"{name}{e}" in images for e in ENDINGS) for ending in ENDINGS
    }
    if written:
        print(f"{len(written)} files are left out: an earlier call wrote them.")
    return {name: path for name, path in images.items() if name not in written}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m segpipe.predict", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument(
        "pictures", type=Path, nargs="+", help="images, or folders, which are searched with their subfolders"
    )
    parser.add_argument("--out", type=Path, default=Path("masks"), help="the folder to write to (default: masks)")
    parser.add_argument("--device", help="a device name of torch: cpu, cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="a package whose classes the run may use"
    )
    given = parser.parse_args()
    with user_errors():
        images, problems = find_images(given.pictures, out=given.out)
        for problem in problems:
            print(f"segpipe: {printable(problem)}", file=sys.stderr)
        failed = predict(given.run, images, given.out, device=given.device, trust=given.trust)
    sys.exit(int(failed > 0 or bool(problems)))


if __name__ == "__main__":
    main()
