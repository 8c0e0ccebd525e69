"""What does counting cost? Our confusion matrices against torchmetrics' MulticlassConfusionMatrix, as it comes.

On (8, 360, 480) pixels of 11 classes, a tenth of them ignored. Ours makes a matrix for every image, which the
statistics need; torchmetrics' makes one for all. Counted from predictions, and from logits
with the class of the highest taken first; ours by torch.max, which gives what argmax gives and is the faster.
"""

import torch

from benchmarks.timing import arguments, begin, interleaved, milliseconds, ratio, timed
from segpipe.metrics.confusion import IGNORE_INDEX, confusion_matrices


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
    prediction = logits.max(1).indices

    def ours(predicted: torch.Tensor) -> torch.Tensor:
        return confusion_matrices(predicted, mask, given.classes)

    sides = {
        "argmax alone": lambda: logits.argmax(1),
        "max alone": lambda: logits.max(1).indices,
        "ours": lambda: ours(prediction),
        "ours, from logits": lambda: ours(logits.max(1).indices),
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
            "torchmetrics, from logits": lambda: metric.update(logits, mask),
        }
    times = interleaved({name: timed(side, device) for name, side in sides.items()}, rounds=given.rounds)
    for name, seconds in times.items():
        print(f"{name:32}{milliseconds(seconds):>14}")
    print(f"max / argmax: {ratio(times['max alone'], times['argmax alone'])}")
    print(f"max alone / ours, from logits: {ratio(times['max alone'], times['ours, from logits'])}")
    for below in ("torchmetrics", "torchmetrics, unchecked"):
        if below in times:
            print(f"ours / {below}: {ratio(times['ours'], times[below])}")
    if (below := "torchmetrics, from logits") in times:
        print(f"ours / torchmetrics, from logits in both: {ratio(times['ours, from logits'], times[below])}")


if __name__ == "__main__":
    main()
