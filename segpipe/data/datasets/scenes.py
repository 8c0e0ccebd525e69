"""Drawn scenes in the user's cache: one file per split, read scene by scene.

The file contains the drawn bytes and a checksum for each scene. Missing or damaged scenes are drawn again.
"""

import hashlib
import zlib

import numpy as np

from segpipe.data import cache
from segpipe.data.dataset import Sample

LARGEST = 256 * 2**20  # bytes of a file; scenes of larger splits are drawn each time
TOGETHER = 2**30  # bytes of all files; if they are larger, the oldest are removed
CHECKSUM = 4  # bytes


class Scenes:
    """The cached scenes of one split.

    known: a string of all that the drawing depends on. count: number of scenes. side: height and width in pixels.
    """

    def __init__(self, known: str, *, count: int, side: int) -> None:
        self.name = f"scenes-{hashlib.blake2b(known.encode(), digest_size=8).hexdigest()}"
        self.count, self.side = count, side
        self.length = 4 * side * side + CHECKSUM  # bytes of an image, its mask, and the checksum of both
        self.fits = count * self.length <= LARGEST
        self.drawn: dict[int, bytes] = {}  # until all scenes are drawn; they are written together

    def find(self, index: int) -> Sample | None:
        """Return a scene from the cache; None if it is missing or damaged."""
        record = cache.read_part(self.name, index * self.length, self.length, whole=self.count * self.length)
        if record is None or zlib.crc32(record[:-CHECKSUM]).to_bytes(CHECKSUM) != record[-CHECKSUM:]:
            return None
        pixels = np.frombuffer(record, np.uint8)[:-CHECKSUM]
        image, mask = np.split(pixels, [3 * self.side * self.side])
        return Sample(image.reshape(self.side, self.side, 3), mask.reshape(self.side, self.side))

    def keep(self, index: int, sample: Sample) -> None:
        """Keep a drawn scene in memory; the last scene of the split writes all of them to the cache."""
        if not self.fits:
            return
        pixels = sample.image.tobytes() + sample.mask.tobytes()
        self.drawn[index] = pixels + zlib.crc32(pixels).to_bytes(CHECKSUM)
        if len(self.drawn) == self.count:
            cache.write_parts(self.name, [self.drawn[place] for place in range(self.count)], together=TOGETHER)
            self.drawn = {}
