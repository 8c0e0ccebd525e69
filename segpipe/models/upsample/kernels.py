"""The primitive of all operators with a kernel for each pixel, and the base class of these operators.

Such an operator computes for each pixel p of the enlarged map the weights k(p, t) of T neighbours t of the cell of
``x`` in which p lies: out(p) = sum over t of k(p, t) x(cell(p) + t). With factor s, a cell has s * s pixels. The
functions here keep them as s * s planes of the size of ``x``, (N, channels, s * s, h, w), in the order of
``F.pixel_shuffle``. A neighbour is then a shifted view of ``x``, and no neighbourhood is copied (``unfold`` needs T
times the memory).
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segpipe.errors import UserError
from segpipe.models.init import proj1x1
from segpipe.models.upsample.base import Start, Upsampler, crop_or_pad_to, pad_by_slices

Offsets = tuple[tuple[int, int], ...]  # (down, right) of each neighbour, in cells of ``x``
Outside = Literal["edge", "zeros"]  # what lies outside ``x``: its edge repeated, or zeros
EPSILON = 1e-3  # added to the bilinear weights, whose logarithm is the start of the logits


def square(side: int) -> Offsets:
    """The neighbours of a square kernel of an odd side, in reading order."""
    reach = side // 2
    return tuple((down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1))


def assemble(x: Tensor, kernel: Tensor, offsets: Offsets | None = None, outside: Outside = "zeros") -> Tensor:
    """Enlarge ``x`` with a kernel for each pixel of the result; see the top of this file.

    x: (N, C, h, w). kernel: (N, T, s * h, s * w), not normalised here. Returns (N, C, s * h, s * w) in the type of
    ``x``; the sum over neighbours has at least single precision. offsets: of the T neighbours; None: a square in
    reading order. Raises ValueError where the sizes do not fit.
    """
    factor = kernel.shape[-1] // x.shape[-1]
    side = round(kernel.shape[1] ** 0.5)
    offsets = square(side) if offsets is None else offsets
    if kernel.shape[-2:] != (factor * x.shape[-2], factor * x.shape[-1]) or len(offsets) != kernel.shape[1]:
        raise ValueError(
            f"The kernel is {tuple(kernel.shape)}: for x of {tuple(x.shape)} it must be (N, {len(offsets)}, s * h, "
            f"s * w), with a whole factor s and an odd side where no offsets are given."
        )
    return from_planes(assemble_planes(x, to_planes(kernel, factor), offsets, outside), factor)


def to_planes(x: Tensor, factor: int) -> Tensor:
    """(N, C, s * h, s * w) to (N, C, s * s, h, w)."""
    return F.pixel_unshuffle(x, factor).unflatten(1, (x.shape[1], factor**2))


def from_planes(planes: Tensor, factor: int) -> Tensor:
    """(N, C, s * s, h, w) to (N, C, s * h, s * w)."""
    return F.pixel_shuffle(planes.flatten(1, 2), factor)


def assemble_planes(x: Tensor, kernel: Tensor, offsets: Offsets, outside: Outside) -> Tensor:
    """(N, C, h, w) and kernel (N, T, s * s, h, w) to (N, C, s * s, h, w). See ``assemble``."""
    if is_traced() or not (torch.is_grad_enabled() and (x.requires_grad or kernel.requires_grad)):
        return by_image(weighted_sum, x, kernel, offsets, outside).to(x.dtype)
    return Assemble.apply(x, kernel, offsets, outside)  # type: ignore[no-any-return]


def similarity_planes(query: Tensor, key: Tensor, offsets: Offsets, outside: Outside) -> Tensor:
    """Inner products of each pixel's query with the keys of its neighbours, (N, T, s * s, h, w).

    query: (N, D, s * s, h, w). key: (N, D, h, w).
    """
    if is_traced() or not (torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)):
        return by_image(inner_products, key, query, offsets, outside).to(query.dtype)
    return Similarity.apply(query, key, offsets, outside)  # type: ignore[no-any-return]


def is_traced() -> bool:
    """Whether ``torch.compile`` or an export records the operations: these do their own planning of memory."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def by_image(function: Any, x: Tensor, planes: Tensor, offsets: Offsets, outside: Outside) -> Tensor:
    """``function(padded x, planes, offsets)``, on a CPU image by image: one image fits the cache. At least float32."""
    whole = is_traced() or x.is_cuda
    parts = [(x, planes)] if whole else zip(x.split(1), planes.split(1), strict=True)
    return torch.cat([function(pad(widen(a), offsets, outside), widen(b), offsets) for a, b in parts])


def widen(x: Tensor) -> Tensor:
    """In single precision, if it has less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def reach_of(offsets: Offsets) -> int:
    """The largest distance of a neighbour along an axis."""
    return max(abs(step) for offset in offsets for step in offset)


def pad(x: Tensor, offsets: Offsets, outside: Outside) -> Tensor:
    """(N, C, h, w) to (N, C, h + 2r, w + 2r), r = ``reach_of(offsets)``.

    The edge is repeated by slices: the gradient of ``F.pad(mode="replicate")`` is not deterministic on a GPU.
    """
    r = reach_of(offsets)
    if outside == "zeros" or r == 0:
        return F.pad(x, (r, r, r, r))
    return pad_by_slices(x, (r, r, r, r))


def unpad(grad: Tensor, offsets: Offsets, outside: Outside) -> Tensor:
    """The gradient of ``pad``: (N, C, h + 2r, w + 2r) to (N, C, h, w)."""
    r = reach_of(offsets)
    if r == 0:
        return grad
    if outside == "edge":
        grad[:, :, r] += grad[:, :, :r].sum(2)
        grad[:, :, -r - 1] += grad[:, :, -r:].sum(2)
        grad[..., r] += grad[..., :r].sum(3)
        grad[..., -r - 1] += grad[..., -r:].sum(3)
    return grad[:, :, r:-r, r:-r]


def shifted(padded: Tensor, offset: tuple[int, int], r: int) -> Tensor:
    """The view (N, C, h, w) of a padded map: at each cell, the neighbour at an offset."""
    height, width = padded.shape[-2] - 2 * r, padded.shape[-1] - 2 * r
    top, left = r + offset[0], r + offset[1]
    return padded[:, :, top : top + height, left : left + width]


def weighted_sum(padded: Tensor, kernel: Tensor, offsets: Offsets) -> Tensor:
    """out[c, s] = sum over t of kernel[t, s] * x[c] shifted by t: (N, C, s * s, h, w)."""
    r = reach_of(offsets)
    total = shifted(padded, offsets[0], r)[:, :, None] * kernel[:, None, 0]
    for tap in range(1, len(offsets)):
        total = total.addcmul_(shifted(padded, offsets[tap], r)[:, :, None], kernel[:, None, tap])
    return total


def inner_products(padded: Tensor, planes: Tensor, offsets: Offsets) -> Tensor:
    """out[t, s] = sum over c of planes[c, s] * x[c] shifted by t: (N, T, s * s, h, w)."""
    r = reach_of(offsets)
    return torch.stack([(planes * shifted(padded, offset, r)[:, :, None]).sum(1) for offset in offsets], dim=1)


def spread(planes: Tensor, kernel: Tensor, offsets: Offsets, outside: Outside) -> Tensor:
    """The transpose of ``weighted_sum`` in x: out[c] = sum over t, s of planes[c, s] * kernel[t, s], shifted back."""
    r = reach_of(offsets)
    n, channels, _, height, width = planes.shape
    total = planes.new_zeros(n, channels, height + 2 * r, width + 2 * r)
    for tap, offset in enumerate(offsets):
        shifted(total, offset, r).add_((planes * kernel[:, None, tap]).sum(2))
    return unpad(total, offsets, outside)


class Assemble(torch.autograd.Function):
    """``assemble_planes`` with a gradient that is computed from ``x`` and the kernel alone, image by image."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, offsets: Offsets, outside: Outside) -> Tensor:
        """See ``assemble_planes``."""
        ctx.save_for_backward(x, kernel)
        ctx.offsets, ctx.outside = offsets, outside
        return by_image(weighted_sum, x, kernel, offsets, outside).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """The gradients of ``x`` and of the kernel."""
        x, kernel = ctx.saved_tensors
        of_x = of_kernel = None
        if ctx.needs_input_grad[0]:
            of_x = spread_by_image(grad, kernel, ctx.offsets, ctx.outside).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_kernel = by_image(inner_products, x, grad, ctx.offsets, ctx.outside).to(kernel.dtype)
        return of_x, of_kernel, None, None


class Similarity(torch.autograd.Function):
    """``similarity_planes`` with a gradient that is computed from query and key alone, image by image."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, offsets: Offsets, outside: Outside) -> Tensor:
        """See ``similarity_planes``."""
        ctx.save_for_backward(query, key)
        ctx.offsets, ctx.outside = offsets, outside
        return by_image(inner_products, key, query, offsets, outside).to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """The gradients of query and key."""
        query, key = ctx.saved_tensors
        of_query = of_key = None
        if ctx.needs_input_grad[0]:
            of_query = by_image(weighted_sum, key, grad, ctx.offsets, ctx.outside).to(query.dtype)
        if ctx.needs_input_grad[1]:
            of_key = spread_by_image(query, grad, ctx.offsets, ctx.outside).to(key.dtype)
        return of_query, of_key, None, None


def spread_by_image(planes: Tensor, kernel: Tensor, offsets: Offsets, outside: Outside) -> Tensor:
    """``spread``, on a CPU image by image, in at least single precision."""
    if planes.is_cuda:
        return spread(widen(planes), widen(kernel), offsets, outside)
    pairs = zip(planes.split(1), kernel.split(1), strict=True)
    return torch.cat([spread(widen(a), widen(b), offsets, outside) for a, b in pairs])


def bilinear_weights(offsets: Offsets, factor: int) -> Tensor:
    """The weights of bilinear interpolation, (T, s * s): of each neighbour, for each pixel of a cell."""
    place = (torch.arange(factor) - (factor - 1) / 2) / factor  # of a pixel beside the middle of its cell, in cells

    def along(axis: int) -> Tensor:
        steps = torch.tensor([offset[axis] for offset in offsets])
        return (1 - (place - steps[:, None]).abs()).clamp(min=0)  # (T, s)

    return (along(0)[:, :, None] * along(1)[:, None, :]).flatten(1)


def check_side(name: str, side: int) -> None:
    """Raise UserError for the side of a square kernel that has no centre, or that is no neighbourhood."""
    if side < 3 or side % 2 == 0:
        raise UserError(f"{name}={side}: allowed is an odd number of 3 or more (an odd kernel has a centre).")


class KernelUpsampler(Upsampler):
    """The base of the operators that compute a kernel for each pixel. A subclass defines ``logits``.

    The kernel is a softmax over the neighbours. With ``init=interpolation`` the logits start at 0, a fixed prior is
    added to them, the logarithm of the bilinear weights (plus 0.001), and the edge of ``x`` is repeated: the operator
    starts within 3 % of bilinear interpolation. With ``init=published`` there is no prior, zeros lie outside ``x``
    unless a subclass says otherwise, and the operator starts as a blur.

    A 1x1 convolution comes first where the widths differ.
    """

    one_step = False
    content_aware = True
    initial = "bilinear"
    published_outside: ClassVar[Outside] = "zeros"
    prior: Tensor | None

    def __init__(
        self, in_channels: int, out_channels: int, *, factor: int, offsets: Sequence[tuple[int, int]], init: Start
    ) -> None:
        super().__init__()
        self.factor, self.offsets = factor, tuple(offsets)
        self.outside: Outside = "edge" if init == "interpolation" else self.published_outside
        self.project = proj1x1(in_channels, out_channels)
        weights = bilinear_weights(self.offsets, factor)[:, :, None, None]  # (T, s * s, 1, 1)
        self.register_buffer("prior", (weights + EPSILON).log() if init == "interpolation" else None, persistent=False)

    def logits(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, out, h, w) and (N, source_channels, H, W) to (N, T, s * s, h, w)."""
        raise NotImplementedError

    def kernel(self, x: Tensor, source: Tensor) -> Tensor:
        """The weights of the neighbours, (N, T, s * s, h, w), of which those of a pixel sum to 1. x: (N, out, h, w)."""
        logits = self.logits(x, source)
        return (logits if self.prior is None else logits + self.prior).softmax(dim=1)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        x = self.project(x)
        planes = assemble_planes(x, self.kernel(x, source), self.offsets, self.outside)
        return crop_or_pad_to(from_planes(planes, self.factor), source.shape[-2:])

    def explain(self, x: Tensor, source: Tensor) -> dict[str, Tensor]:
        """See ``Upsampler``: ``kernel``, (N, T, H, W)."""
        kernel = from_planes(self.kernel(self.project(x), source), self.factor)
        return {"kernel": crop_or_pad_to(kernel, source.shape[-2:])}
