"""``python -m segpipe.predict RUN IMAGES --out FOLDER``: masks, coloured masks and overlays of your own images."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from segpipe.config.messages import user_errors
from segpipe.data.files import IMAGE_SUFFIXES, read_image
from segpipe.data.visualise import colour_mask, overlay, save_image
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError, printable


def predict(run: Path, pictures: list[Path], out: Path, *, device: str | None = None, trust: Iterable[str] = ()) -> int:
    """Write NAME_mask.png (class indices), NAME_colour.png and NAME_overlay.png for each image.

    Prints the three largest classes of each image, and the error of an image that cannot be read. Returns the number of
    images that failed.
    """
    predictor = Predictor(run, device=device, trust=trust)
    failed = []
    for number, path in enumerate(pictures, start=1):
        try:
            image = read_image(path)
        except UserError as error:
            failed.append(path)
            print(f"segpipe: {error}", file=sys.stderr)
            continue
        mask = predictor(image)
        save_image(mask, out / f"{path.stem}_mask.png")
        save_image(colour_mask(mask, predictor.palette), out / f"{path.stem}_colour.png")
        save_image(overlay(image, mask, predictor.palette), out / f"{path.stem}_overlay.png")
        shares = {name: float((mask == index).mean()) for index, name in enumerate(predictor.classes)}
        largest = sorted(shares.items(), key=lambda item: -item[1])[:3]
        print(
            f"[{number}/{len(pictures)}] {printable(path.name)}: "
            + ", ".join(f"{name} {share:.0%}" for name, share in largest)
        )
    print(f"{len(pictures) - len(failed)} of {len(pictures)} images: masks in {out}/")
    return len(failed)


def find_pictures(paths: list[Path]) -> list[Path]:
    """Return the given files and the images in the given folders.

    Raises UserError where a path does not exist, where a folder has no images, or where two images have the same stem.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UserError(f"{path}: no images in this folder. Allowed are {', '.join(sorted(IMAGE_SUFFIXES))}.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder. Give images, or folders of images.")
    by_stem: dict[str, Path] = {}
    for path in found:
        if (other := by_stem.setdefault(path.stem, path)) != path:
            raise UserError(f"{path} and {other}: their masks would have the same name. Predict them into two folders.")
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m segpipe.predict", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("pictures", type=Path, nargs="+", help="images, or folders of images")
    parser.add_argument("--out", type=Path, default=Path("masks"), help="the folder to write to (default: masks)")
    parser.add_argument("--device", help="a device name of torch: cpu, cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="a package whose classes the run may use"
    )
    given = parser.parse_args()
    with user_errors():
        failed = predict(given.run, find_pictures(given.pictures), given.out, device=given.device, trust=given.trust)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
