"""The header of an image file: its format, size, bands and pages, known before any pixel is decoded.

Only the formats in ``SIGNATURES`` are read. The first bytes decide the format, not the suffix of the name.
"""

import re
import struct
from io import BytesIO
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

SIGNATURES = {  # format to its first bytes
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "BMP": re.compile(rb"BM"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "PPM": re.compile(rb"P[1-6]\s"),
    "JPEG2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    "NPY": re.compile(rb"\x93NUMPY[\1\2]"),
}
PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
BANDS = {"LA": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "RGBA": 4, "RGBX": 4, "CMYK": 4}  # by Pillow's mode; else 1
MOST_PAGES = 1000  # pages of a TIFF that are looked at
MOST_TAGS = 4096  # tags of a page
MOST_NUMBERS = 4096  # of a tag, which has one for each band; other tags are empty
MOST_SEGMENTS = 2**22  # strips or tiles of a page
SEGMENTS = {273, 279, 324, 325}  # tags of numbers for each strip or tile
TAGS = {254, 256, 257, 258, 259, 262, 270, 274, 277, 338, 339, 32997}  # those that are read
MOST_NPY = 10_000  # bytes of the header of an NPY file
MOST_CHUNKS = 1_000_000  # chunks of a PNG that are looked at
MOST_TEXT = 65536  # bytes of a description that are read
REDUCED, TRANSPARENCY = 1, 4  # bits of a TIFF's NewSubfileType: a smaller copy of another page, a transparency mask
NUMBERS: dict[int, Literal["unsigned", "signed", "float"]] = {1: "unsigned", 2: "signed", 3: "float", 4: "unsigned"}
KINDS: dict[str, Literal["unsigned", "signed", "float"]] = {
    "b": "unsigned",
    "u": "unsigned",
    "i": "signed",
    "f": "float",
}
SPACES = {5: "CMYK", 8: "CIELAB", 9: "CIELAB", 10: "CIELAB", 32844: "LogL", 32845: "LogLuv"}  # by TIFF's tag 262


class Header(NamedTuple):
    """What the header of an image file says.

    format: a key of SIGNATURES. size: height and width in pixels, as stored. bands: numbers of a pixel; for a palette
    1. bits: of each number. numbers: their kind. pages: pictures in the file. orientation: EXIF's, 1 to 8; 1: upright.
    transparent: some palette entries or a colour are transparent. lossy: values may change when the file is written.
    white_is_zero: a TIFF that stores inverted values (photometric interpretation MINISWHITE). alpha: the last band is
    said to be transparency. space: the name of a colour space other than gray, RGB and YCbCr. rgb: three bands are
    colours; not for a TIFF that says that they are of brightness. shape: of the array of an NPY file, else empty;
    ``size`` and ``bands`` are by ``axes_of``, and ``bands`` is 0 where these are not known.
    """

    format: str
    size: tuple[int, int]
    bands: int = 1
    bits: int = 8
    numbers: Literal["unsigned", "signed", "float"] = "unsigned"
    pages: int = 1
    orientation: int = 1
    transparent: bool = False
    lossy: bool = False
    white_is_zero: bool = False
    alpha: bool = False
    space: str = ""
    rgb: bool = True
    shape: tuple[int, ...] = ()

    @property
    def depth(self) -> str:
        """Return the name of the numbers' type in numpy: uint8, uint16, int16, float32; below 8 bits it is uint8."""
        bits = max(8, 1 << (self.bits - 1).bit_length())
        return {"unsigned": "uint", "signed": "int", "float": "float"}[self.numbers] + str(bits)

    @property
    def hides_data(self) -> bool:
        """Return whether 8-bit RGB may lack some of the data: transparency, a further band, lower bits."""
        return self.transparent or self.bits > 8 or (self.bands in (2, 4) and self.format != "JPEG")

    @property
    def upright_size(self) -> tuple[int, int]:
        """Return the height and width after the image is turned by its orientation."""
        return self.size if self.orientation < 5 else (self.size[1], self.size[0])


def format_of(start: bytes) -> str | None:
    """Return the format of a file from its first bytes; None if it is not one of SIGNATURES."""
    return next((name for name, mark in SIGNATURES.items() if mark.match(start)), None)


def open_as(kind: str, file: BinaryIO) -> ImageFile.ImageFile:
    """Open a file by Pillow's reader of one format. Its pixels are not decoded, and its size is not checked."""
    file.seek(0)
    return PLUGINS[kind](file)


def read_header(file: BinaryIO) -> Header | None:
    """Return the header of an open file; None for another format. Raises many kinds of errors for damaged files."""
    file.seek(0)
    start = file.read(512)
    kind = format_of(start)
    if kind is None or kind in ("TIFF", "NPY"):
        return None if kind is None else read_tiff(file) if kind == "TIFF" else read_npy(file)
    picture = open_as(kind, file)
    header = Header(
        kind,
        (picture.height, picture.width),
        bands=BANDS.get(picture.mode, 1),
        bits=16 if picture.mode.startswith("I") else 8,
        numbers="float" if picture.mode == "F" else "unsigned",
        transparent="transparency" in picture.info,
        lossy=kind in ("JPEG", "JPEG2000"),
        alpha=picture.mode in ("LA", "PA", "RGBA"),
    )
    if kind == "PNG":
        orientation = exif_orientation(png_exif(file))
        return header._replace(bits=start[24], pages=getattr(picture, "n_frames", 1), orientation=orientation)
    if kind == "PPM":
        blank = rb"(?:\s|#[^\n]*\n)"
        maximum = re.match(rb"P[56]%b+\d+%b+\d+%b+(\d+)\s" % (blank, blank, blank), start)
        return header._replace(bits=16 if maximum and int(maximum[1]) > 255 else header.bits)
    if kind == "JPEG":
        header = header._replace(bands=min(header.bands, 3))  # decoders make RGB of CMYK
    if kind in ("JPEG", "WEBP"):
        header = header._replace(orientation=exif_orientation(picture.info.get("exif", b"")))
    if kind == "WEBP":
        lossy = b"VP8 " in webp_chunks(file)
        return header._replace(pages=getattr(picture, "n_frames", 1), lossy=lossy)
    if kind == "GIF":
        return header._replace(pages=1 + getattr(picture, "is_animated", False))
    return header


def png_exif(file: BinaryIO) -> bytes:
    """Return the EXIF data of a PNG file, which may lie before or after its pixels."""
    position = 8
    for _ in range(MOST_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return b""
        length = int.from_bytes(head[:4])
        if head[4:] == b"eXIf":
            return file.read(min(length, MOST_TEXT))
        position += 12 + length
    return b""


def webp_chunks(file: BinaryIO) -> set[bytes]:
    """Return the names of the first chunks of a WebP file, those inside of animation frames included."""
    names = set()
    position = 12
    for _ in range(64):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            break
        names.add(head[:4])
        position += 24 if head[:4] == b"ANMF" else 8 + (int.from_bytes(head[4:], "little") + 1) // 2 * 2
    return names


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in EXIF data, which are a TIFF without pixels; 1 if there is none."""
    exif = exif.removeprefix(b"Exif\0\0")
    if format_of(exif[:4]) != "TIFF":
        return 1
    try:
        directory, _ = Directories(BytesIO(exif)).read()
    except (struct.error, ValueError, OverflowError):
        return 1
    return orientation_in(directory)


def orientation_in(directory: dict[int, tuple[int, ...]]) -> int:
    """Return the orientation, 1 to 8, in the tags of a TIFF directory."""
    value = directory.get(274, (1,))[:1]
    return value[0] if value and 1 <= value[0] <= 8 else 1


class Directories:
    """The directories of a TIFF file (TIFF 6.0, and BigTIFF), one for each page."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        head = file.read(16)
        self.file, self.order = file, "<" if head[:2] == b"II" else ">"
        self.big = 43 in (head[2], head[3])
        self.first: int = struct.unpack_from(f"{self.order}{'Q' if self.big else 'I'}", head, 8 if self.big else 4)[0]

    def read(self, offset: int | None = None, *, tags: set[int] = TAGS) -> tuple[dict[int, tuple[int, ...]], int]:
        """Return the integer tags of the directory at ``offset`` (of bytes, for text), and the offset of the next.

        tags: those that are read. Those with more than MOST_NUMBERS, or MOST_SEGMENTS, are empty.
        """
        head, entry, tail = ("Q", "HHQ8s", "Q") if self.big else ("H", "HHI4s", "I")
        self.file.seek(self.first if offset is None else offset)
        (count,) = self.take(head)
        if count > MOST_TAGS:
            raise ValueError(f"a directory of {count} tags")
        entries = [self.take(entry) for _ in range(count)]
        end = self.file.read(struct.calcsize(f"{self.order}{tail}"))  # EXIF data may end before it
        following = int.from_bytes(end, "little" if self.order == "<" else "big")
        wanted = {tag: rest for tag, *rest in entries if tag in tags}
        limits = {tag: MOST_SEGMENTS if tag in SEGMENTS else MOST_NUMBERS for tag in wanted}
        return {tag: self.values(*rest, most=limits[tag]) for tag, rest in wanted.items()}, following

    def take(self, layout: str) -> tuple:
        """Read and unpack numbers. Raises struct.error at the end of the file."""
        layout = f"{self.order}{layout}"
        return struct.unpack(layout, self.file.read(struct.calcsize(layout)))

    def values(self, kind: int, number: int, value: bytes, *, most: int) -> tuple[int, ...]:
        """Return the integers of a tag; nothing for tags of other types, and for long ones."""
        letter = {1: "B", 2: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is None or number > (MOST_TEXT if letter == "B" else most):
            return ()
        layout = f"{self.order}{number}{letter}"
        size = struct.calcsize(layout)
        if size > len(value):
            (offset,) = struct.unpack(f"{self.order}{'Q' if self.big else 'I'}", value)
            self.file.seek(offset)
            value = self.file.read(size)
        return struct.unpack(layout, value[:size])


def read_tiff(file: BinaryIO) -> Header:
    """Return the header of a TIFF file. Smaller copies of its first page (overviews) are not pages."""
    directories = Directories(file)
    first, following = directories.read()
    pages, visited = 1, {directories.first}
    while following and following not in visited and len(visited) < MOST_PAGES:
        visited.add(following)
        directory, following = directories.read(following)
        pages += not (directory.get(254) or (0,))[0] & (REDUCED | TRANSPARENCY)
    stack = re.search(rb"ImageJ=.*\nimages=(\d+)", bytes(first.get(270, ()))[:MOST_TEXT])
    pages = max(pages, int(stack[1]) if stack else 1, *first.get(32997, ()))  # a stack of ImageJ; a volume
    (height,), (width,) = first.get(257) or (0,), first.get(256) or (0,)
    return Header(
        "TIFF",
        (height, width),
        bands=(first.get(277) or (1,))[0],
        bits=max(first.get(258) or (1,)),
        numbers=NUMBERS.get((first.get(339) or (1,))[0], "float"),
        pages=pages,
        orientation=orientation_in(first),
        lossy=(first.get(259) or (1,))[0] in (6, 7, 34712, 50001),  # JPEG, JPEG 2000, WebP
        white_is_zero=(first.get(262) or (1,))[0] == 0,
        alpha=any(kind in (1, 2) for kind in first.get(338, ())),  # ExtraSamples: associated, unassociated
        space=SPACES.get((first.get(262) or (1,))[0], ""),
        rgb=(first.get(277) or (1,))[0] < 3 or (first.get(262) or (1,))[0] > 1,
    )


def read_npy(file: BinaryIO) -> Header:
    """Return the header of an NPY file. Raises ValueError for an array that is not of numbers, or has no bands."""
    shape, _, kind = npy_header(file)
    axes = axes_of(shape)
    height, width, bands = (
        {"HW": (*shape, 1), "CHW": (*shape[1:], shape[0])}.get(axes, shape) if axes else (*shape[:2], 0)
    )
    return Header(
        "NPY", (height, width), bands=bands, bits=max(8, 8 * kind.itemsize), numbers=KINDS[kind.kind], shape=shape
    )


def npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order (True: Fortran's) and type of an NPY file, which is read up to its first number."""
    file.seek(0)
    version = np.lib.format.read_magic(file)
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > MOST_NPY:  # numpy compares it after it has read so many bytes
        raise ValueError(f"a header of {length} bytes; allowed are {MOST_NPY}")
    file.seek(np.lib.format.MAGIC_LEN)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(file, max_header_size=MOST_NPY)
    if kind.kind not in KINDS or kind.itemsize > 8:
        raise ValueError(f"an array of type {kind}; allowed are integers, floating point numbers and booleans")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"an array of shape {shape}; allowed are (height, width) and three axes, one of them of bands")
    return shape, fortran, kind


def axes_of(shape: tuple[int, ...]) -> Literal["HW", "HWC", "CHW"] | None:
    """Return the order of an array's axes if it is clear: the first or the last axis is the shortest one. Else None."""
    if len(shape) == 2:
        return "HW"
    return "HWC" if shape[2] < min(shape[:2]) else "CHW" if shape[0] < min(shape[1:]) else None
