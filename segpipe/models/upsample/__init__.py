"""Upsampling operators: each enlarges a map by a factor, to the size of a source map of the encoder.

An operator is built from ``(in_channels, out_channels, *, factor, source_channels)`` and called with ``(x, source)``.
``source`` is the encoder's map at the target stride. It gives the target size, the positions for unpooling, and the
values that guide a guided operator. ``Upsampler`` states the contract.
"""

from segpipe.models.upsample.additive import Additive, with_residual
from segpipe.models.upsample.base import Start, Upsampler, crop_or_pad_to, pad_by_edge
from segpipe.models.upsample.carafe import Carafe
from segpipe.models.upsample.deconv import Decomposed, Deconv, bilinear_kernel
from segpipe.models.upsample.dysample import DySample
from segpipe.models.upsample.eucb import Eucb
from segpipe.models.upsample.fade import Fade
from segpipe.models.upsample.fixed import Bilinear, Interpolate, Nearest
from segpipe.models.upsample.flow import Flow
from segpipe.models.upsample.guide import Guide
from segpipe.models.upsample.kernels import KernelUpsampler, assemble
from segpipe.models.upsample.local_attention import LocalAttention
from segpipe.models.upsample.pixelshuffle import PixelShuffle, ShuffleConv2d
from segpipe.models.upsample.resize_conv import ResizeConv
from segpipe.models.upsample.sampling import sample
from segpipe.models.upsample.sapa import Sapa
from segpipe.models.upsample.unpooling import Unpool, unpool

__all__ = [
    "Additive", "Bilinear", "Carafe", "Decomposed", "Deconv", "DySample", "Eucb", "Fade", "Flow", "Guide",
    "Interpolate", "KernelUpsampler", "LocalAttention", "Nearest", "PixelShuffle", "ResizeConv", "Sapa",
    "ShuffleConv2d", "Start", "Unpool", "Upsampler", "assemble", "bilinear_kernel", "crop_or_pad_to",
    "pad_by_edge", "sample", "unpool", "with_residual",
]  # fmt: skip
