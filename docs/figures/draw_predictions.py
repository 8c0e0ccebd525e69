"""Draw what several runs predict for the same test pictures: python docs/figures/draw_predictions.py OUT RUN [RUN ...].

Masks and errors only, no photographs: CamVid's may not be passed on. The runs' own data are read (data.root).
"""

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from omegaconf import OmegaConf

import segpipe
from segpipe.config import build
from segpipe.data.visualise import GAP, INK, PAPER, colour_mask, error_map

COUNT, HEIGHT = 4, 150


def main() -> None:
    """A row a picture; for each run its mask and where that is wrong."""
    out, runs = Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
    dataset = build.dataset(OmegaConf.load(runs[0] / "config.yaml"), "test")
    samples = [dataset.read(index) for index in np.linspace(0, len(dataset) - 1, COUNT).round().astype(int)]
    width = round(HEIGHT * samples[0].mask.shape[1] / samples[0].mask.shape[0])
    page = PIL.Image.new("RGB", ((width + GAP) * 2 * len(runs) + GAP, 30 + (HEIGHT + GAP) * COUNT), PAPER)
    draw, font = PIL.ImageDraw.Draw(page), PIL.ImageFont.load_default(15)
    for column, run in enumerate(runs):
        predictor = segpipe.load(run)
        left = GAP + 2 * column * (width + GAP)
        name = OmegaConf.load(run / "config.yaml").model.name
        draw.text((left, 6), f"{name}: prediction", INK, font)
        draw.text((left + width + GAP, 6), f"{name}: errors", INK, font)
        for row, sample in enumerate(samples):
            mask = predictor(sample.image)
            for place, picture in enumerate((colour_mask(mask, dataset.palette), error_map(sample.mask, mask))):
                small = PIL.Image.fromarray(picture).resize((width, HEIGHT), PIL.Image.Resampling.NEAREST)
                page.paste(small, (left + place * (width + GAP), 30 + row * (HEIGHT + GAP)))
    page.quantize(64).save(out, optimize=True)


if __name__ == "__main__":
    main()
