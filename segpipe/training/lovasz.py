"""The Lovasz-softmax loss: a differentiable extension of the Jaccard index (IoU)."""

import torch
from torch import Tensor

from segpipe.metrics.confusion import IGNORE_INDEX
from segpipe.training.losses import ImageMean


class Lovasz(ImageMean):
    """Lovasz-softmax (Berman et al. 2018): 1 - IoU, extended from hard predictions to probabilities.

    It is averaged over the classes of an image, and over images: ``classes=present`` and ``per_image`` in the paper. If
    all probabilities are 0 or 1, it equals 1 - IoU.
    """

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See the top of losses.py. Each pair of an image and a class in it is a row of the sorted (R, H * W)."""
        shares, mask = logits.softmax(1).flatten(2), mask.flatten(1)  # (N, K, H * W), (N, H * W)
        valid = mask != IGNORE_INDEX
        truth = torch.zeros_like(shares, dtype=torch.bool)
        truth = truth.scatter_(1, mask.where(valid, 0)[:, None], True) & valid[:, None]
        present = truth.any(2)  # (N, K)
        image, index = present.nonzero(as_tuple=True)  # (R,), (R,)
        belongs = truth[image, index]
        errors = (belongs.to(shares) - shares[image, index]).abs()
        errors, order = errors.sort(1, descending=True)
        rises = jaccard_rises(belongs.gather(1, order), valid[image].gather(1, order)).to(errors)
        return ((errors * rises).sum(1) / present.sum(1)[image]).sum()[None]


def jaccard_rises(belongs: Tensor, valid: Tensor) -> Tensor:
    """The increase of 1 - IoU for each pixel, if one pixel after another becomes wrong, (R, P).

    belongs: whether a pixel belongs to the class. valid: whether it is labelled. Both are bool (R, P), in the order in
    which the pixels become wrong; each row has at least one pixel of the class. With n pixels of the class, f of them
    wrong and b other pixels wrong, 1 - IoU = 1 - (n - f) / (n + b). The increases are computed in closed form, since
    differences of numbers near 1 would lose precision in large images. Pixels that are not valid give 0.
    """
    other = valid & ~belongs
    left = belongs.sum(1, keepdim=True) - belongs.cumsum(1, dtype=torch.int32)  # n - f
    union = (belongs.sum(1, keepdim=True) + other.cumsum(1, dtype=torch.int32)).float()  # n + b
    return belongs / union + other * left / (union * (union - 1).clamp(min=1))
