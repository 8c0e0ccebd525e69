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
        picture, name = present.nonzero(as_tuple=True)  # (R,), (R,)
        own = truth[picture, name]
        errors = (own.to(shares) - shares[picture, name]).abs()
        errors, order = errors.sort(1, descending=True)
        rises = jaccard_rises(own.gather(1, order), valid[picture].gather(1, order)).to(errors)
        return ((errors * rises).sum(1) / present.sum(1)[picture]).sum()[None]


def jaccard_rises(own: Tensor, valid: Tensor) -> Tensor:
    """The increase of 1 - IoU for each pixel, if one pixel after another becomes wrong, (R, P).

    own: whether a pixel belongs to the class. valid: whether it is labelled. Both are bool (R, P), in the order in
    which the pixels become wrong; each row has at least one pixel of the class. With n pixels of the class, f of them
    wrong and b other pixels wrong, 1 - IoU = 1 - (n - f) / (n + b). The increases are computed in closed form, since
    differences of numbers near 1 would lose precision in large images. Pixels that are not valid give 0.
    """
    other = valid & ~own
    left = own.sum(1, keepdim=True) - own.cumsum(1, dtype=torch.int32)  # n - f
    union = (own.sum(1, keepdim=True) + other.cumsum(1, dtype=torch.int32)).float()  # n + b
    return own / union + other * left / (union * (union - 1).clamp(min=1))
