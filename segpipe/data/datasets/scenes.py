"""Scenes that were drawn once, kept in the user's cache: a file a split, read scene by scene.

It holds what the drawing gave, byte by byte, and each scene's checksum: what is missing or damaged is drawn again.
"""

import hashlib
import zlib

import numpy as np

from segpipe.data import cache
from segpipe.data.dataset import Sample

LARGEST = 256 * 2**20  # bytes of a file; what takes more is drawn every time
TOGETHER = 2**30  # bytes of all files; of more, those written longest ago are removed
CHECKSUM = 4  # bytes


class Scenes:
    """The scenes of one split.

    known: all that the drawing depends on. count: scenes in the split. side: their height and width.
    """

    def __init__(self, known: str, *, count: int, side: int) -> None:
        self.name = f"scenes-{hashlib.blake2b(known.encode(), digest_size=8).hexdigest()}"
        self.count, self.side = count, side
        self.length = 4 * side * side + CHECKSUM  # of a picture, its mask, and the checksum of both
        self.fits = count * self.length <= LARGEST
        self.drawn: dict[int, bytes] = {}  # until all of them are, and are written

    def find(self, index: int) -> Sample | None:
        """A scene from the cache; None where it is not there whole."""
        record = cache.read_part(self.name, index * self.length, self.length, whole=self.count * self.length)
        if record is None or zlib.crc32(record[:-CHECKSUM]).to_bytes(CHECKSUM) != record[-CHECKSUM:]:
            return None
        pixels = np.frombuffer(record, np.uint8)[:-CHECKSUM]
        image, mask = np.split(pixels, [3 * self.side * self.side])
        return Sample(image.reshape(self.side, self.side, 3), mask.reshape(self.side, self.side))

    def keep(self, index: int, sample: Sample) -> None:
        """Remember a scene that was drawn; with the last one, all are written."""
        if not self.fits:
            return
        pixels = sample.image.tobytes() + sample.mask.tobytes()
        self.drawn[index] = pixels + zlib.crc32(pixels).to_bytes(CHECKSUM)
        if len(self.drawn) == self.count:
            cache.write_parts(self.name, [self.drawn[place] for place in range(self.count)], together=TOGETHER)
            self.drawn = {}
