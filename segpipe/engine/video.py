"""The frames of a video as images, and overlays as a video."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from segpipe.data.dataset import Image
from segpipe.data.files import check_pixels
from segpipe.errors import UserError
from segpipe.runs.storage import open_regular

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm"}
RATE = 25.0  # frames a second where a file does not say


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def opened(path: Path) -> cv2.VideoCapture:
    """Return an open video. Raises UserError where it cannot be read, or where its frames are too large."""
    open_regular(path).close()  # the library would wait for ever for the content of a pipe
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise UserError(f"{path}: cannot be read as a video. Save it as MP4 (H.264), or save its frames as PNG.")
    height, width = (int(video.get(key)) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    check_pixels(height, width, str(path))
    return video


def frames(path: Path, *, most: int) -> Iterator[Image]:
    """Yield the first ``most`` frames of a video, (H, W, 3) RGB. Raises UserError where there is none."""
    video = opened(path)
    try:
        for number in range(most):
            read, frame = video.read()
            if not read:
                if not number:
                    raise UserError(f"{path}: the video has no frame that can be decoded. Save it as MP4 (H.264).")
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # type: ignore[misc]
    finally:
        video.release()


def number_of_frames(path: Path) -> int:
    """Return how many frames a video says that it has; 1 where it cannot be read."""
    if not path.is_file():
        return 1
    video = cv2.VideoCapture(str(path))
    number = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 1
    video.release()
    return max(1, number)


def frame_rate(path: Path) -> float:
    """Return the frames of a video a second."""
    video = cv2.VideoCapture(str(path))
    rate = float(video.get(cv2.CAP_PROP_FPS))
    video.release()
    return rate if 0 < rate < 1000 else RATE


class VideoFile:
    """Writes frames (H, W, 3) RGB of one size to an MP4 file, which has its name once it is closed."""

    def __init__(self, path: Path, *, rate: float, size: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.part = path, path.with_name(f".{path.stem[:100]}.part{path.suffix}")
        self.file = cv2.VideoWriter(str(self.part), cv2.VideoWriter.fourcc(*"mp4v"), rate, size[::-1])
        if not self.file.isOpened():
            raise UserError(f"{path}: the video cannot be written. Check the folder, or take --video masks.")

    def write(self, frame: Image) -> None:
        """Write one frame."""
        self.file.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self, *, keep: bool = True) -> None:
        """Finish the file. keep: False removes it."""
        self.file.release()
        if keep:
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)
