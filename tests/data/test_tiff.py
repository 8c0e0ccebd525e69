"""The reader of TIFF and NPY files of any bands and numbers, against tifffile, Pillow and OpenCV; and of windows."""

import io
import time
import zlib
from contextlib import suppress

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
from support.folders import RNG

from segpipe.data import stored, tiff
from segpipe.data.dataset import ImageForm
from segpipe.data.files import read_image, read_image_window, read_stored_header
from segpipe.errors import UserError

SIZE = (50, 70)
WINDOWS = [(slice(5, 33), slice(20, 69)), (slice(None),) * 2, (slice(48, 90), slice(0, 1)), (slice(-9, None),) * 2]
LAYOUTS = [
    {}, {"tile": (16, 32)}, {"planarconfig": "separate"}, {"planarconfig": "separate", "tile": (32, 16)},
    {"rowsperstrip": 7}, {"bigtiff": True}, {"byteorder": ">"}, {"compression": "zlib"},
    {"tile": (16, 16), "compression": "zlib", "predictor": True, "byteorder": ">"},
]  # fmt: skip


def array_of(kind, bands):
    return (RNG.random((*SIZE, bands)) * 200).astype(kind)


def form_of(array):
    kind = array.dtype.newbyteorder("=").name
    return ImageForm(array.shape[2], "float32" if kind.startswith("float") else kind)


def write(path, array, *, layout):
    """Write an array (H, W, C) by tifffile."""
    options = {"photometric": "minisblack", "planarconfig": "contig"} | layout
    if array.shape[2] == 1:
        options.pop("planarconfig")
        array = array[..., 0]
    elif options["planarconfig"] == "separate":
        array = np.moveaxis(array, 2, 0)
    tifffile.imwrite(path, array, **options)
    return path


def expected(array):
    return array if array.dtype.name in ("uint8", "uint16") else array.astype(np.float32)


KINDS = ["uint8", "uint16", "int16", "int32", "float16", "float32", "float64"]
WRITTEN = [  # tifffile needs another library for the predictor of floating point numbers; see the next test
    (kind, layout) for kind in KINDS for layout in LAYOUTS if not (layout.get("predictor") and kind.startswith("float"))
]


@pytest.mark.parametrize(("kind", "layout"), WRITTEN, ids=str)
@pytest.mark.parametrize("bands", [1, 2, 5])
def test_a_tiff_is_read_as_written_and_so_are_its_windows(tmp_path, kind, bands, layout):
    array = array_of(kind, bands)
    path = write(tmp_path / "a.tif", array, layout=layout)
    whole = read_image(path, form_of(array))
    assert whole.dtype == expected(array).dtype
    assert (whole == expected(array)).all()
    for rows, columns in WINDOWS:
        assert (read_image_window(path, rows, columns, form_of(array)) == whole[rows, columns]).all()


PREDICTED = [(one, predictor) for one in ("tiff_lzw", "zstd", "lzma", "tiff_adobe_deflate") for predictor in (1, 2, 3)]


@pytest.mark.parametrize(("compression", "predictor"), [*PREDICTED, ("packbits", 1)])
def test_compressions_and_predictors_are_those_of_libtiff(tmp_path, compression, predictor):
    array = array_of("float32" if predictor == 3 else "uint8", 1)[..., 0]
    options = {} if predictor == 1 else {"tiffinfo": {317: predictor}}
    PIL.Image.fromarray(array).save(tmp_path / "a.tif", compression=compression, **options)
    with (tmp_path / "a.tif").open("rb") as file:
        (page,) = tiff.read_pages(file)
        assert page.predictor == predictor
        assert (tiff.read_window(file, page, range(50), range(70))[..., 0] == array).all()


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 3])
def test_files_of_opencv_are_read_red_first(tmp_path, kind, bands):
    array = array_of(kind, bands)
    for suffix in [".tif", ".png"][: 1 + (kind != "float32")]:
        cv2.imwrite(str(tmp_path / f"a{suffix}"), array[..., ::-1])
        assert (read_image(tmp_path / f"a{suffix}", form_of(array)) == array).all()


@pytest.mark.parametrize("layout", [*LAYOUTS, {"tile": (16, 16)}], ids=str)
@pytest.mark.parametrize("bands", [1, 3])
def test_windows_of_ordinary_images_are_those_of_the_whole(tmp_path, bands, layout):
    """OpenCV does not decode tiles of 16 x 16 in RGB."""
    array = array_of("uint8", bands)
    path = write(tmp_path / "a.tif", array, layout={"photometric": "rgb" if bands == 3 else "minisblack"} | layout)
    whole = read_image(path)
    assert (whole == array).all()
    assert whole.shape == (*SIZE, 3)
    for rows, columns in WINDOWS:
        assert (read_image_window(path, rows, columns) == whole[rows, columns]).all()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "JPEG2000"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_windows_of_other_files_are_those_of_the_whole(tmp_path, form, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {} if form == "JPEG2000" else {"exif": exif.tobytes()}
    PIL.Image.fromarray(array_of("uint8", 3)).save(tmp_path / "a", form, **options)
    for rows, columns in WINDOWS:
        assert (read_image_window(tmp_path / "a", rows, columns) == read_image(tmp_path / "a")[rows, columns]).all()


def test_a_window_decodes_only_what_it_needs(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", array_of("uint16", 5), layout={"tile": (16, 16), "compression": "zlib"})
    decoded, real = [], tiff.decode_segment
    monkeypatch.setattr(tiff, "decode_segment", lambda *given: decoded.append(1) or real(*given))
    read_image_window(path, slice(17, 30), slice(0, 20), ImageForm(5, "uint16"))
    assert len(decoded) == 2


@pytest.mark.parametrize(
    ("array", "axes", "bands"),
    [
        (RNG.random(SIZE), None, 1),
        (RNG.random((5, *SIZE)).astype("f4"), None, 5),
        (RNG.random((*SIZE, 7)).astype(">f4"), None, 7),
        (np.asfortranarray(RNG.integers(0, 9, (*SIZE, 4))), None, 4),
        (RNG.random((30, 30, 30)), "HWC", 30),
        (RNG.random((30, 30, 30)), "CHW", 30),
        (RNG.random(SIZE) > 0.5, None, 1),
    ],
)
def test_arrays_are_read_in_the_order_of_their_axes(tmp_path, array, axes, bands):
    np.save(tmp_path / "a.npy", array)
    header = read_stored_header(tmp_path / "a.npy")
    turned = array[..., None] if array.ndim == 2 else array
    turned = np.moveaxis(array, 0, 2) if axes == "CHW" or bands == 5 else turned
    form = ImageForm(bands, stored.depth_group(header.depth), axes=axes)
    assert (read_image(tmp_path / "a.npy", form) == turned.astype(np.float32)).all()
    for rows, columns in WINDOWS:
        part = read_image_window(tmp_path / "a.npy", rows, columns, form)
        assert (part == turned.astype(np.float32)[rows, columns]).all()


def test_an_array_of_8_bits_is_an_ordinary_image(tmp_path):
    array = array_of("uint8", 3)
    for one, shown in ((array, array), (array[..., 0], array[..., :1]), (np.moveaxis(array, 2, 0), array)):
        np.save(tmp_path / "a.npy", one)
        assert (read_image(tmp_path / "a.npy") == shown).all()


def test_numbers_that_mean_no_data_are_nan(tmp_path):
    array = array_of("float32", 2)
    array[:3] = -9999
    tags = [(tiff.NODATA, 2, 0, "-9999", True)]
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="contig", extratags=tags)
    read = read_image(tmp_path / "a.tif", ImageForm(2, "float32"))
    assert np.isnan(read[:3]).all()
    assert (read[3:] == array[3:]).all()
    tags = [(tiff.NODATA, 2, 0, "0", True)]
    tifffile.imwrite(tmp_path / "b.tif", array[..., 0].clip(0).astype(np.uint16), extratags=tags)
    assert np.isnan(read_image(tmp_path / "b.tif", ImageForm(1, "uint16"))[:3]).all()


def test_pages_are_bands_where_the_form_says_so(tmp_path):
    array = array_of("uint16", 5)
    for options in ({"photometric": "minisblack"}, {"imagej": True}):
        tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(array, 2, 0), **options)
        form = ImageForm(5, "uint16", pages=True)
        assert read_stored_header(tmp_path / "a.tif").pages == 5
        assert (read_image(tmp_path / "a.tif", form) == array).all()
        assert (read_image_window(tmp_path / "a.tif", *WINDOWS[0], form) == array[WINDOWS[0]]).all()
        with pytest.raises(UserError, match=r"5 pages.*data\.dataset\.pages=bands"):
            read_image(tmp_path / "a.tif", ImageForm(1, "uint16"))
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(array[..., 0])
        file.write(array[:9, :9, 0])
    with pytest.raises(UserError, match="2 pages"):
        read_stored_header(tmp_path / "b.tif")


# what is refused


def saved(array, kind, **options):
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, array, **options)
    else:
        PIL.Image.fromarray(array).convert(kind).save(file, "TIFF")
    return file.getvalue()


def of_header(text):
    """An NPY file without numbers."""
    return b"\x93NUMPY\x01\x00v\x00" + text.ljust(117).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (saved(array_of("uint8", 3), "CMYK"), "colour space CMYK. Convert it to RGB"),
        (saved(array_of("uint8", 3), "LAB"), "colour space CIELAB"),
        (saved(np.array([[{}]]), "npy"), "array of type object"),
        (saved(np.zeros(9), "npy"), "shape"),
        (saved(np.zeros((2, 2), complex), "npy"), "complex"),
        (saved(np.zeros((2, 2), [("a", "f4")]), "npy"), "array of type"),
        (saved(np.zeros((0, 5)), "npy"), "shape"),
        (saved(np.zeros((500, 500)), "npy")[:9000], "too short"),
        (of_header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999), }"), "megapixels"),
        (of_header("{'descr': '<f4', 'fortran_order': False, 'shape': (9000, 9000, 900), }"), "GB; allowed"),
        (of_header("(" * 117), "cannot be read"),
        (of_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 5), }"), "shape"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(20), "a header of 4294967295 bytes; allowed are 10000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # a TIFF file holds the time
)
def test_files_that_no_form_reads_are_refused_by_their_header(tmp_path, content, says):
    (tmp_path / "a.npy").write_bytes(content)

    def read():
        header = read_stored_header(tmp_path / "a.npy")
        return read_image(tmp_path / "a.npy", ImageForm(header.bands, stored.depth_group(header.depth)))

    with pytest.raises(UserError, match=says) as error:
        read()
    assert "a.npy" in str(error.value)


def test_an_image_of_another_form_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", array_of("uint16", 5), layout={})
    for form in (ImageForm(4, "uint16"), ImageForm(5, "uint8"), ImageForm(5, "float32")):
        for read in (read_image, lambda path, form: read_image_window(path, *WINDOWS[0], form)):
            with pytest.raises(UserError, match=rf"an image of 5 bands of uint16; needed are images of {form}"):
                read(path, form)
    with pytest.raises(UserError, match="5 bands"):
        read_image(path)
    path = write(tmp_path / "b.tif", array_of("uint8", 3), layout={})
    with pytest.raises(UserError, match="not said to be colours"):  # OpenCV would read the first band only
        read_image(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"planarconfig": "separate"}], ids=str)
def test_damaged_tiffs_are_refused_in_a_sentence(tmp_path, layout, compression):
    path = write(tmp_path / "a.tif", array_of("uint16", 2), layout=layout | {"compression": compression})
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    start = time.process_time()
    for number in range(60):
        damaged = bytearray(content)
        places = generator.integers(0, 400 if number % 2 else len(content), 6)
        for place in places:
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged[: generator.integers(100, len(content))] if number % 3 == 0 else damaged)
        for read in (lambda: read_image(path, ImageForm(2, "uint16")), lambda: read_stored_header(path)):
            with suppress(UserError):
                read()
    assert time.process_time() - start < 20


def test_a_part_that_expands_to_much_more_is_cut(tmp_path):
    path = write(tmp_path / "a.tif", array_of("uint8", 2), layout={"compression": "zlib", "rowsperstrip": 50})
    with path.open("rb") as file:
        (page,) = tiff.read_pages(file)
    bomb = zlib.compress(bytes(50_000_000))
    content = bytearray(path.read_bytes())
    content[page.offsets[0] : page.offsets[0] + len(bomb)] = bomb
    path.write_bytes(content)
    assert len(tiff.decompress(bomb, 8, 7000, 50)) == 7000
    with suppress(UserError):
        read_image(path, ImageForm(2, "uint8"))


@pytest.mark.parametrize("layout", [{}, {"planarconfig": "separate"}])
@pytest.mark.parametrize("bands", [65, 512])
def test_a_tag_has_a_number_for_each_of_many_bands(tmp_path, bands, layout):
    array = (RNG.random((9, 8, bands)) * 60_000).astype(np.uint16)
    path = write(tmp_path / "a.tif", array, layout=layout)
    assert read_stored_header(path).depth == "uint16"
    assert (read_image(path, form_of(array)) == array).all()


def test_the_memory_of_a_tile_is_bounded_by_the_image():
    """A tile of no bytes is filled, so a file of 1 x 1 pixels could ask for any memory."""
    tags = {256: (1,), 257: (1,), 277: (3000,), 258: (64,), 339: (3,), 322: (1024,), 323: (1024,), 324: (0,), 325: (0,)}
    with pytest.raises(ValueError, match="tiles of 1024 x 1024 for 1 x 1 pixels"):
        tiff.page_of(tags, "<")
    page = tiff.page_of(tags | {277: (13,)}, "<")  # 109 MB
    assert page.segment == (1024, 1024)


def test_absurd_tags_are_refused(tmp_path):
    array = array_of("uint8", 2)
    path = write(tmp_path / "a.tif", array, layout={"tile": (16, 16)})
    with path.open("rb") as file:
        (page,) = tiff.read_pages(file)
    assert page.segment == (16, 16)
    for tag, value in ((322, 2**24), (322, 0), (323, 2**31), (277, 60_000), (258, 64), (339, 3), (317, 9), (284, 2)):
        with tifffile.TiffFile(path) as file:
            place = file.pages[0].tags[tag].valueoffset if tag in file.pages[0].tags else None
        if place is None:
            continue
        content = bytearray(path.read_bytes())
        content[place : place + 2] = (value & 0xFFFF).to_bytes(2, "little")
        (tmp_path / "b.tif").write_bytes(content)
        with suppress(UserError):
            read_image(tmp_path / "b.tif", ImageForm(2, "uint8"))
