"""Draw docs/figures/climb.png and deconvnet_panels.png: one image through the decoders of four runs.

The runs are trained, and the figures drawn, by::

    python -m segpipe.train -m model=fcn8s,unet,segnet,deconvnet encoder=small callbacks=inspect sweep.name=lab
    python docs/figures/draw_climb.py outputs/sweeps/lab
"""

import argparse
from pathlib import Path

from segpipe.config import build
from segpipe.data.visualise import save_image
from segpipe.engine.inspection import image_facts
from segpipe.engine.predictor import Predictor
from segpipe.lab.facts import Inspection, RunFacts, ShownImage
from segpipe.lab.strip import climb_figure, panels_figure
from segpipe.runs.run import Run

FIGURES = Path(__file__).parent
NAMES = {"fcn8s": "FCN-8s", "unet": "U-Net", "segnet": "SegNet", "deconvnet": "DeconvNet"}  # by model
SCENE = 30  # of the test split


def main() -> None:
    """Draw both figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the folder of the sweep")
    folders = [path.parent for path in sorted(parser.parse_args().sweep.glob("*/run.json"))]
    runs = {str(Run.open(folder).record["name"]).partition("-")[0]: Predictor(folder) for folder in folders}
    first = runs["fcn8s"]
    sample = build.dataset(first.cfg, "test").read(SCENE)
    shown = ShownImage(f"scene {SCENE}", sample.image, sample.mask)
    facts = [RunFacts(label, images=[image_facts(runs[model], shown)]) for model, label in NAMES.items()]
    inspection = Inspection(first.classes, first.palette, [shown], facts)
    save_image(climb_figure(inspection, 0), FIGURES / "climb.png")
    save_image(panels_figure(inspection, facts[-1], 0), FIGURES / "deconvnet_panels.png")


if __name__ == "__main__":
    main()
