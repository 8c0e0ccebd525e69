"""Encoders: an image becomes one map per stride. ``Encoder`` is the contract each of them keeps."""

from segpipe.models.encoders.encoder import Encoder, Pool
from segpipe.models.encoders.plain import PlainEncoder

__all__ = ["Encoder", "PlainEncoder", "Pool"]
