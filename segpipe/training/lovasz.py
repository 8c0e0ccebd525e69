"""The Lovasz-softmax loss: the Jaccard index itself, made into something that has a gradient."""

import torch
from torch import Tensor

from segpipe.metrics.confusion import IGNORE_INDEX
from segpipe.training.losses import ImageMean


class Lovasz(ImageMean):
    """Lovasz-softmax (Berman et al. 2018): one minus IoU, extended from right and wrong to probabilities.

    For each class in a picture, meant over them, and over pictures: the paper's ``classes=present``, ``per_image``.
    Where the network is certain of every pixel it is 1 - IoU exactly.
    """

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See the head of losses.py. Pairs of a picture and a class in it make the rows (R, H * W) that are sorted."""
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
    """By how much 1 - IoU rises as one pixel after another is taken to be wrong.

    own: whether a pixel is of the class; valid: whether it counts; both bool (R, P), in the order in which the pixels
    turn wrong, with at least one of ``own`` in a row. With n pixels of the class, f of them wrong and b others wrong,
    1 - IoU is 1 - (n - f) / (n + b). Its steps are written out here; as differences of numbers near one they would
    lose their digits in large pictures. What is not valid gives 0.
    """
    other = valid & ~own
    left = own.sum(1, keepdim=True) - own.cumsum(1, dtype=torch.int32)  # n - f
    union = (own.sum(1, keepdim=True) + other.cumsum(1, dtype=torch.int32)).float()  # n + b
    return own / union + other * left / (union * (union - 1).clamp(min=1))
