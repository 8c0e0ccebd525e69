"""The contract of an upsampling operator."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segpipe.errors import UserError
from segpipe.models.part import Part

Start = Literal["interpolation", "published"]  # values of ``decoder.init``


class Upsampler(Part):
    """The base of all operators. A subclass states by class attributes what is different from the values here.

    The values here are safe: they never make two different networks count as one. If ``segpipe.models.cost`` does not
    count the multiply-adds of an operator, give it a method ``cost(x, source)`` that returns them for one forward pass.

    one_step: it enlarges by any factor in one operation. If not, it is built with a factor of 2 only, and the network
        applies it once for each step of 2, up to the full size.
    parameter_free: it has no parameters where all widths agree: training cannot change what it computes.
    linear: for a given source it is a linear function of ``x``, and a 1x1 convolution after it can be moved before it
        or be merged into it. In a linear decoder, sum and concatenation are then the same class of functions.
    needs_pooling: it uses the positions of the encoder's 2 x 2 max-poolings.
    guided: its result depends on the values of the source. If not, it depends on the size of the source only.
    content_aware: it computes weights or sampling positions for each pixel from features; ``explain`` returns them.
        With ``model.enlarge=auto`` it acts in the decoder's steps only, and the final upsampling is bilinear.
    stochastic_backward: on a GPU its gradients are summed in no fixed order (``torch.use_deterministic_algorithms``
        lists such functions): two runs of one seed differ in the last digits.
    initial: what it computes before training where the widths agree, apart from the border. The start of a
        content-aware operator is within 3 % of it.
    paper: where it was published. limits: what it can and cannot compute. Both are for ``docs/operators.md``.
    """

    one_step: ClassVar[bool] = True
    parameter_free: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    needs_pooling: ClassVar[bool] = False
    guided: ClassVar[bool] = False
    content_aware: ClassVar[bool] = False
    stochastic_backward: ClassVar[bool] = False
    initial: ClassVar[Literal["nearest", "bilinear", "blur", "other"]] = "other"
    paper: ClassVar[str] = ""
    limits: ClassVar[str] = ""

    def explain(self, x: Tensor, source: Tensor) -> dict[str, Tensor] | None:
        """Return what a content-aware operator computed for each pixel of its result; None for any other operator.

        x, source: the arguments of ``forward``; (N, in, h, w) and (N, source_channels, H, W). The entries are those of:

        - ``kernel``: (N, T, H, W), the weights of the T neighbours in ``x``; they sum to 1. A square kernel of side K
          has T = K * K neighbours in reading order; the 13th of 25 is the cell of ``x`` in which the pixel lies. Of
          other neighbours, the attribute ``offsets`` is a tuple of T pairs (down, right).
        - ``offsets``: (N, 2, H, W), the distance to the right and down, in pixels of ``x``, between the position that
          is sampled and the one of bilinear interpolation. An operator with groups of channels gives their mean here,
          and ``group_offsets``, (N, groups, 2, H, W).
        """
        return None


def check_channels(channels: int) -> None:
    """Raise UserError for a compressed map without channels."""
    if channels < 1:
        raise UserError(f"channels={channels}: allowed is a whole number of 1 or more.")


def crop_or_pad_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop ``x`` or repeat its edge, equally on opposite sides, to ``size`` (H, W).

    An encoder that pads in all layers gives equal sizes, and ``x`` is returned unchanged. AlexNet does not: its maps
    are smaller and centred on the image. If the difference is odd, the cells of a centred map are shifted by half a
    cell; each output cell is then the mean of its two neighbours. With AlexNet every step of 2 has such a difference
    (12 to 13, 26 to 27, 54 to 55).
    """
    down, right = size[0] - x.shape[-2], size[1] - x.shape[-1]
    if not down and not right:
        return x
    beside, over = (right + 1) // 2, (down + 1) // 2  # one cell more in total, where the difference is odd
    x = pad_by_edge(x, (beside, beside, over, over))
    return F.avg_pool2d(x, (1 + down % 2, 1 + right % 2), stride=1) if down % 2 or right % 2 else x


def pad_by_edge(x: Tensor, border: tuple[int, int, int, int]) -> Tensor:
    """Pad (N, C, H, W) by repeating its edge. border: cells to the left, right, top, bottom; negative ones crop.

    The gradient of ``F.pad(mode="replicate")`` raises an error on a GPU under deterministic algorithms.
    """
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return pad_by_slices(x, border)
    return F.pad(x, border, mode="replicate")


def pad_by_slices(x: Tensor, border: tuple[int, int, int, int]) -> Tensor:
    """The result of ``pad_by_edge`` by slicing and concatenation, whose gradients are sums in a fixed order."""
    for dim, (before, after) in ((2, border[2:]), (3, border[:2])):
        x = x.narrow(dim, max(-before, 0), x.shape[dim] + min(before, 0) + min(after, 0))
        size = list(x.shape)
        ends = []
        for count, place in ((before, 0), (after, x.shape[dim] - 1)):
            size[dim] = max(count, 0)
            ends.append(x.narrow(dim, place, 1).expand(size))
        x = torch.cat([ends[0], x, ends[1]], dim)
    return x
