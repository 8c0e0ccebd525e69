"""Which image and mask files are read, how, and which are refused: by one reader, whoever asks."""

import errno
import io
import os
import struct
import time
import zlib
from contextlib import suppress

import cv2
import numpy as np
import PIL.Image
import pytest
from support.configs import configure
from support.folders import RNG, SIZE, STEPS, nested, report, save

import segpipe.data.files as files
from segpipe.config import build
from segpipe.data.files import read_image, read_size
from segpipe.data.folder import Folder
from segpipe.data.folder.survey import decode
from segpipe.data.masks import TURNS, read_mask
from segpipe.data.resize import to_network
from segpipe.engine import sweep
from segpipe.errors import UserError

NOISE = RNG.integers(0, 256, (*SIZE, 3), np.uint8)
BANDS = np.array([0, 255], np.uint8)[STEPS % 2]
DEEP = RNG.integers(0, 4096, SIZE).astype(np.uint16)


def pil(array, form, **options):
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


def pages(form, **options):
    return pil(NOISE, form, save_all=True, append_images=[PIL.Image.fromarray(255 - NOISE)], **options)


def encoded(array, suffix):
    return cv2.imencode(suffix, array)[1].tobytes()


def turned(array, form, orientation, **options):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return pil(array, form, exif=exif.tobytes(), **options)


def inverted_palette():
    image = PIL.Image.fromarray(BANDS)
    image.putpalette([255 - number // 3 for number in range(768)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# what is refused

ALPHA = np.concatenate([NOISE, np.where(STEPS > 1, 255, 9)[..., None].astype(np.uint8)], 2)
REFUSED = {
    "pages": (pages("TIFF"), "2 pages"),
    "animation": (pages("GIF"), "2 or more pages"),
    "animated WebP": (pages("WEBP"), "2 pages"),
    "animated PNG": (pages("PNG"), "2 pages"),
    "hyperstack": (pil(NOISE, "TIFF", tiffinfo={270: "ImageJ=1.53t\nimages=5\nslices=5\n"}), "5 pages"),
    "floating point": (encoded(RNG.random(SIZE, np.float32), ".tif"), "floating point"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read"),
    "empty": (b"", "cannot be read"),
}
REFUSED_IMAGES = REFUSED | {
    "alpha in PNG": (pil(ALPHA, "PNG"), "band beside its colours"),
    "alpha in WebP": (pil(ALPHA, "WEBP", lossless=True), "band beside its colours"),
    "four bands": (pil(ALPHA, "TIFF"), "band beside its colours"),
    "gray and alpha": (pil(ALPHA[..., 2:], "PNG"), "band beside its colours"),
    "12 bits in PNG": (pil(DEEP, "PNG"), "16 of 256 gray levels"),
    "12 bits in TIFF": (pil(DEEP, "TIFF"), "16 of 256 gray levels"),
    "16-bit colours": (encoded(np.dstack([DEEP] * 3), ".png"), "16 of 256 gray levels"),
}
REFUSED_MASKS = REFUSED | {
    "boolean TIFF": (pil(BANDS > 0, "TIFF", tiffinfo={262: 0}), "MINISWHITE"),
    "white is zero": (pil(BANDS, "TIFF", tiffinfo={262: 0}), "MINISWHITE"),
    "inverting LUT": (inverted_palette(), "inverting LUT"),
    "JPEG": (pil(BANDS, "JPEG"), "JPEG"),
    "JPEG in TIFF": (pil(NOISE, "TIFF", compression="jpeg"), "lossy"),
    "lossy WebP": (pil(NOISE, "WEBP"), "WEBP with lossy"),
    "16 bits": (pil(DEEP, "PNG"), "more than 8 bits"),
}


@pytest.mark.parametrize("name", REFUSED_IMAGES)
def test_images_that_would_be_read_wrong_are_refused(tmp_path, name):
    content, says = REFUSED_IMAGES[name]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_image(tmp_path / "a.png")
    assert "a.png" in str(error.value)
    if name not in ("EPS", "SVG", "empty"):
        assert any(word in str(error.value) for word in ("Save", "save"))


@pytest.mark.parametrize("name", REFUSED_MASKS)
def test_masks_that_would_be_read_wrong_are_refused(tmp_path, name):
    content, says = REFUSED_MASKS[name]
    (tmp_path / "a.png").write_bytes(content)
    for reader in (decode, read_mask) if name != "inverting LUT" else (decode,):
        with pytest.raises(UserError, match="8 bits" if name == "floating point" else says) as error:
            reader(tmp_path / "a.png")
        assert "a.png" in str(error.value)


AT_THE_START = [("images", name) for name in ("pages", "alpha in PNG", "12 bits in PNG")]
AT_THE_START += [("masks", name) for name in ("JPEG", "white is zero", "inverting LUT")]


@pytest.mark.parametrize(("kind", "name"), AT_THE_START)
def test_a_training_refuses_at_its_start_what_check_data_finds(tmp_path, kind, name):
    content, says = (REFUSED_IMAGES if kind == "images" else REFUSED_MASKS)[name]
    says = "1 band of uint16, but 11 of 12 images have 8-bit gray or RGB" if name == "12 bits in PNG" else says
    path = nested(tmp_path) / "train" / kind / "train0_0.png"
    path.write_bytes(content)
    (problem,) = report(tmp_path).problems
    assert says in problem
    with pytest.raises(UserError, match=says):
        build.data(configure("data=folder", f"data.root={tmp_path}")).check()


def test_bands_and_bits_that_hold_nothing_are_left_out(tmp_path):
    opaque = np.concatenate([NOISE, np.full((*SIZE, 1), 255, np.uint8)], 2)
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("BMP", {})):
        (tmp_path / "a").write_bytes(pil(opaque, form, **options))
        assert (read_image(tmp_path / "a") == NOISE).all()
        assert (read_image(tmp_path / "a") == cv2.imread(str(tmp_path / "a"), cv2.IMREAD_COLOR_RGB)).all()
    (tmp_path / "a").write_bytes(pil(opaque[..., 2:], "PNG"))
    assert (read_image(tmp_path / "a") == NOISE[..., 2:]).all()
    (tmp_path / "a").write_bytes(turned(opaque, "PNG", 6))
    assert (read_image(tmp_path / "a") == np.rot90(NOISE, -1)).all()
    full = RNG.integers(0, 65536, SIZE).astype(np.uint16)
    (tmp_path / "a").write_bytes(pil(full, "PNG"))
    assert (read_image(tmp_path / "a") == (full >> 8)[..., None]).all()


def test_smaller_copies_of_a_page_are_no_pages(tmp_path):
    small = PIL.Image.fromarray(NOISE[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    (tmp_path / "a.tif").write_bytes(pil(NOISE, "TIFF", save_all=True, append_images=[small]))
    assert (read_image(tmp_path / "a.tif") == NOISE).all()


# equal to before, and upright


FORMATS = [("PNG", {}), ("TIFF", {}), ("JPEG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("PPM", {}), ("GIF", {})]
FORMATS += [("JPEG2000", {})]


@pytest.mark.parametrize(("form", "options"), FORMATS, ids=str)
@pytest.mark.parametrize("array", [NOISE, NOISE[..., 0]], ids=["colour", "gray"])
def test_ordinary_images_are_what_opencv_decodes(tmp_path, form, options, array):
    (tmp_path / "a").write_bytes(pil(array, form, **options))
    expected = cv2.imread(str(tmp_path / "a"), cv2.IMREAD_COLOR_RGB)
    assert (read_image(tmp_path / "a") == expected).all()
    assert read_size(tmp_path / "a") == SIZE


@pytest.mark.parametrize(("form", "options"), [*FORMATS[:2], FORMATS[3]], ids=str)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_masks_are_turned_upright_alike(tmp_path, form, options, orientation):
    gray = NOISE[..., 0]
    path = tmp_path / "a.png"
    path.write_bytes(turned(gray, form, orientation, **options))
    image = read_image(path)[..., 0]
    raw = PIL.Image.fromarray(gray)
    expected = np.asarray(raw.transpose(TURNS[orientation]) if orientation > 1 else raw)
    assert (image == expected).all()
    assert (decode(path).values == expected).all()
    assert read_size(path) == expected.shape
    if form != "WEBP":
        assert (read_mask(path) == expected).all()


def test_a_jpeg_is_turned_by_its_orientation(tmp_path):
    (tmp_path / "a").write_bytes(turned(NOISE, "JPEG", 8))
    assert (read_image(tmp_path / "a") == cv2.imread(str(tmp_path / "a"), cv2.IMREAD_COLOR_RGB)).all()
    assert read_size(tmp_path / "a") == SIZE[::-1]


def test_an_orientation_of_one_of_the_two_is_said(tmp_path):
    root = nested(tmp_path)
    image, mask = root / "train" / "images" / "train0_0.png", root / "train" / "masks" / "train0_0.png"
    plain = Folder(split="train", root=str(root))
    mark = plain.fingerprint()
    image.write_bytes(turned(NOISE, "PNG", 3))
    assert any("train0_0.png" in note and "EXIF" in note for note in Folder(split="train", root=str(root)).notes)
    mask.write_bytes(turned(BANDS, "PNG", 3))
    both = Folder(split="train", root=str(root))
    assert not any("EXIF" in note for note in both.notes)
    assert both.fingerprint() != mark
    sample = both.read(both.names.index("train0_0"))
    assert (sample.image == NOISE[::-1, ::-1]).all()
    assert (sample.mask == (BANDS > 0)[::-1, ::-1]).all()


# reading safely


def fifo(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (fifo, "a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (lambda path: None, "no such file"),
    ],
    ids=["pipe", "device", "folder", "loop", "nothing"],
)
def test_only_regular_files_are_opened(tmp_path, make, says):
    make(tmp_path / "a.png")
    for reader in (read_image, read_mask, read_size, decode):
        with pytest.raises(UserError, match=says):
            reader(tmp_path / "a.png")


def bomb(side):
    """A PNG whose header says that it is large."""
    data = bytearray(pil(NOISE, "PNG"))
    data[16:24] = side.to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


def test_large_images_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(bomb(60000))
    for reader in (read_image, read_mask, decode):
        with pytest.raises(UserError, match="3600 megapixels; allowed are 250"):
            reader(tmp_path / "a.png")
    monkeypatch.setenv(files.LIMIT, "0.0001")
    save(tmp_path / "b.png", NOISE)
    with pytest.raises(UserError, match=files.LIMIT):
        read_image(tmp_path / "b.png")
    monkeypatch.setenv(files.LIMIT, "much")
    with pytest.raises(UserError, match="allowed is a number of megapixels"):
        read_image(tmp_path / "b.png")


def test_an_image_is_not_enlarged_beyond_the_limit():
    with pytest.raises(UserError, match="enlarged to the encoder's minimum of 32"):
        to_network(np.zeros((1, 1_000_000, 3), np.uint8), None, smallest=32)


@pytest.mark.parametrize("cut", [9, 30, 60, 200])
@pytest.mark.parametrize(("form", "options"), FORMATS, ids=str)
def test_damaged_files_are_refused_in_a_sentence(tmp_path, form, options, cut):
    content = pil(NOISE, form, **options)
    for damaged in (content[:cut], content[:cut] + bytes(range(256)) + content[cut + 256 :]):
        (tmp_path / "a").write_bytes(damaged)
        for reader in (read_image, decode, read_size):
            with suppress(UserError):  # some damage is not noticed; no other error may come
                reader(tmp_path / "a")


def test_a_tiff_of_many_tags_and_pages_takes_no_time(tmp_path):
    """A thousand pages of four thousand descriptions of 64 KiB each."""
    tags = b"".join(struct.pack("<HHII", 270, 2, 65536, 8) for _ in range(4000))
    directory = struct.pack("<H", 4000) + tags
    content, place = b"", 8
    for _ in range(50):
        place += len(directory) + 4
        content += directory + struct.pack("<I", place)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + content + bytes(65536))
    start = time.process_time()
    with pytest.raises(UserError, match=r"a\.tif"):
        read_size(tmp_path / "a.tif")
    assert time.process_time() - start < 3


def test_directories_of_a_tiff_that_form_a_circle_end(tmp_path):
    content = bytearray(pil(NOISE, "TIFF"))
    first = int.from_bytes(content[4:8], "little")
    end = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content[end : end + 4] = content[4:8]
    (tmp_path / "a.tif").write_bytes(content)
    assert read_size(tmp_path / "a.tif") == SIZE


def test_classes_json_is_read_safely(tmp_path):
    root = nested(tmp_path)
    path = root / "classes.json"
    path.write_bytes(b'\xef\xbb\xbf\n\n["a", "b"]\n\n')
    assert Folder(split="train", root=str(root)).classes == ["a", "b"]
    for content in (
        "[" * 100_000,
        "[" + ",".join(f'"c{number}"' for number in range(20_000)) + "]",
        "{" + ",".join(f'"c{number}": {number}' for number in range(20_000)) + "}",
        "{" + ",".join(f'"c{number}": [{number >> 8}, {number & 255}, 0]' for number in range(20_000)) + "}",
        " " * (files.MOST_TEXT + 1),
    ):
        path.write_text(content)
        start = time.process_time()
        (problem,) = report(root).problems
        assert time.process_time() - start < 3
        assert "classes.json" in problem
        assert len(problem) < 1000
    path.unlink()
    os.mkfifo(path)
    (problem,) = report(root).problems
    assert "classes.json: a named pipe" in problem


def test_files_of_public_data_are_what_plain_decoders_read(request):
    """CamVid and the nuclei, bit for bit."""
    for name, images, masks in (("camvid", "val", "valannot"), ("nuclei", "val/images", "val/masks")):
        root = request.getfixturevalue(f"{name}_root")
        for path in sorted((root / images).iterdir())[::20]:
            assert (read_image(path) == cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)).all()
        for path in sorted((root / masks).iterdir())[::20]:
            with PIL.Image.open(path) as mask:
                assert (read_mask(path) == np.asarray(mask)).all()
                assert read_size(path) == (mask.height, mask.width)


@pytest.mark.parametrize("reader", [read_image, read_mask, read_size, decode])
def test_a_file_that_may_not_be_read_need_not_be_replaced(reader, tmp_path, monkeypatch):
    def refuse(path, *given, **named):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    PIL.Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"a\.png: cannot be read \(Permission denied\)\. Change its permissions\.$"):
        reader(tmp_path / "a.png")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
@pytest.mark.parametrize("name", ["classes.json", "train.txt", "cells.txt"])
def test_a_text_of_another_encoding_is_said_to_be_one(encoding, name, tmp_path):
    """Of classes, of a split, of the cells of a sweep."""
    nested(tmp_path)
    path = tmp_path / name
    path.write_bytes('["é", "b"]'.encode(encoding))
    with pytest.raises(UserError, match=rf"{name}: this is no text in UTF-8 \(byte \d cannot be read\)\. Save it as"):
        files.read_text(path)
    if name == "classes.json":
        assert any("Save it as UTF-8" in problem for problem in Folder(root=tmp_path, split="train").problems)
    if name == "cells.txt":
        with pytest.raises(UserError, match="Save it as UTF-8"):
            sweep.read_lines(path)
