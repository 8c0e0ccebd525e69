"""``python -m segpipe.predict RUN PICTURES --out FOLDER``: masks, coloured masks and overlays of your own pictures."""

import argparse
import sys
from pathlib import Path

from segpipe.config.messages import user_errors
from segpipe.data.files import IMAGE_SUFFIXES, read_image
from segpipe.data.visualise import colour_mask, overlay, save_image
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError


def predict(run: Path, pictures: list[Path], out: Path, *, device: str | None = None) -> int:
    """Write NAME_mask.png (indices), NAME_colour.png and NAME_overlay.png for each picture; return how many failed."""
    predictor = Predictor(run, device=device)
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
        print(f"[{number}/{len(pictures)}] {path.name}: " + ", ".join(f"{name} {share:.0%}" for name, share in largest))
    print(f"{len(pictures) - len(failed)} of {len(pictures)} pictures: masks in {out}/")
    return len(failed)


def find_pictures(paths: list[Path]) -> list[Path]:
    """The files named, and the pictures in the folders named. Raises UserError for none, or two of one stem."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UserError(f"{path}: no picture in it (of {', '.join(sorted(IMAGE_SUFFIXES))}).")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder. Give pictures, or folders of pictures.")
    by_stem: dict[str, Path] = {}
    for path in found:
        if (other := by_stem.setdefault(path.stem, path)) != path:
            raise UserError(f"{path} and {other}: their masks would have one name. Predict them into two folders.")
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m segpipe.predict", description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of pictures")
    parser.add_argument("--out", type=Path, default=Path("masks"), help="where to write (default: masks)")
    parser.add_argument("--device", help="as torch names it; a GPU where there is one by default")
    given = parser.parse_args()
    with user_errors():
        failed = predict(given.run, find_pictures(given.pictures), given.out, device=given.device)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
