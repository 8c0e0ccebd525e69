"""What does counting cost? Our confusion matrices against torchmetrics' MulticlassConfusionMatrix, as it comes.

On (8, 360, 480) pixels of 11 classes, a tenth of them ignored. Ours makes a matrix for every picture, which the
statistics need; torchmetrics' makes one for all. Counted from predictions, and from logits, argmax included.
"""

import torch

from benchmarks.timing import arguments, begin, interleaved, milliseconds, ratio, timed
from segpipe.metrics import IGNORE_INDEX, confusion_matrices


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--shape", type=int, nargs=3, default=[8, 360, 480], metavar=("N", "HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=11)
    given = parser.parse_args()
    device = begin(given)
    number, height, width = given.shape
    torch.manual_seed(0)
    logits = torch.randn(number, given.classes, height, width, device=device)
    logits = logits.contiguous(memory_format=torch.channels_last)  # as our networks leave them
    mask = torch.randint(given.classes, (number, height, width), device=device)
    mask[torch.rand(mask.shape, device=device) < 0.1] = IGNORE_INDEX
    prediction = logits.argmax(1)

    def ours(predicted: torch.Tensor) -> torch.Tensor:
        return confusion_matrices(predicted, mask, given.classes)

    sides = {
        "argmax alone": lambda: logits.argmax(1),
        "ours": lambda: ours(prediction),
        "ours, argmax included": lambda: ours(logits.argmax(1)),
    }
    try:
        from torchmetrics.classification import MulticlassConfusionMatrix
    except ModuleNotFoundError:
        print("torchmetrics is not installed (pip install torchmetrics): its side is left out")
    else:
        metric = MulticlassConfusionMatrix(given.classes, ignore_index=IGNORE_INDEX).to(device)
        unchecked = MulticlassConfusionMatrix(given.classes, ignore_index=IGNORE_INDEX, validate_args=False).to(device)
        metric.update(prediction, mask)
        if not torch.equal(metric.compute(), ours(prediction).sum(0)):
            raise SystemExit("the two count differently: nothing to compare")
        sides |= {
            "torchmetrics": lambda: metric.update(prediction, mask),
            "torchmetrics, unchecked": lambda: unchecked.update(prediction, mask),
            "torchmetrics, argmax included": lambda: metric.update(logits, mask),
        }
    times = interleaved({name: timed(side, device) for name, side in sides.items()}, rounds=given.rounds)
    for name, seconds in times.items():
        print(f"{name:32}{milliseconds(seconds):>14}")
    print(f"argmax alone / ours, argmax included: {ratio(times['argmax alone'], times['ours, argmax included'])}")
    for below in ("torchmetrics", "torchmetrics, unchecked"):
        if below in times:
            print(f"ours / {below}: {ratio(times['ours'], times[below])}")
    if (below := "torchmetrics, argmax included") in times:
        print(f"ours / torchmetrics, argmax included in both: {ratio(times['ours, argmax included'], times[below])}")


if __name__ == "__main__":
    main()
