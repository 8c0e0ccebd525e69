"""What may be given as an image, and what a predictor returns for one image and for several."""

import io
import threading

import numpy as np
import PIL.Image
import pytest
import torch

import segpipe
from segpipe.engine.inputs import as_image, each
from segpipe.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
GRAY = RGB[..., 0]


def png(array):
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def same(array):
    return torch.from_numpy(np.ascontiguousarray(array))


FORMS = {
    "array": RGB,
    "array, channels first": RGB.transpose(2, 0, 1),
    "read-only": np.frombuffer(RGB.tobytes(), np.uint8).reshape(RGB.shape),
    "strided": np.repeat(RGB, 2, axis=0)[::2],
    "int64": RGB.astype(np.int64),
    "tensor": same(RGB),
    "tensor, channels first": same(RGB.transpose(2, 0, 1)),
    "opaque": np.dstack([RGB, np.full_like(GRAY, 255)]),
    "bytes": png(RGB),
    "bytearray": bytearray(png(RGB)),
    "PIL": PIL.Image.fromarray(RGB),
}
GRAYS = {
    "array": GRAY,
    "one channel": GRAY[..., None],
    "one channel, first": GRAY[None],
    "tensor": same(GRAY),
    "16 bits, the other byte order": (GRAY.astype(np.uint16) * 257).astype(">u2"),
    "16 bits": GRAY.astype(np.uint16) * 257,
    "int32": GRAY.astype(np.int32),
    "bytes": png(GRAY),
    "PIL": PIL.Image.fromarray(GRAY),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_an_image_is_the_same_image(name):
    image = as_image(FORMS[name])
    assert (image == RGB).all()
    assert (image.dtype, image.flags.c_contiguous) == (np.uint8, True)


@pytest.mark.parametrize("name", GRAYS)
def test_every_form_of_a_gray_image_is_repeated(name):
    assert (as_image(GRAYS[name]) == np.dstack([GRAY] * 3)).all()


def test_a_path_is_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png(RGB))
    assert all((as_image(kind(tmp_path / "a.png")) == RGB).all() for kind in (str, lambda path: path))


def test_where_both_axes_could_be_channels_a_tensor_has_them_first_and_an_array_last():
    cube = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    assert (as_image(cube) == cube).all()
    assert (as_image(same(cube)) == cube.transpose(1, 2, 0)).all()


FLOAT = np.random.default_rng(0).random((9, 9, 3)).astype(np.float32)
WRONG = {
    "0..1": (FLOAT, r"0 to 255.*\(255 \* image\)\.round\(\)\.astype\('uint8'\)"),
    "0..1 tensor": (torch.from_numpy(FLOAT).permute(2, 0, 1), r"\(255 \* image\)"),
    "floats of 0..255": (FLOAT * 255, r"image\.round\(\)\.clip\(0, 255\)"),
    "NaN": (np.full((4, 4), np.nan), "not finite"),
    "infinite": (np.full((4, 4, 3), np.inf, np.float32), "not finite"),
    "empty": (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    "empty gray": (np.zeros((0, 0), np.uint8), "no pixels"),
    "1-d": (np.zeros(9, np.uint8), r"uint8 \(9,\)"),
    "5-d": (np.zeros((1, 1, 4, 4, 3), np.uint8), r"uint8 \(1, 1, 4, 4, 3\)"),
    "0-d": (np.uint8(7), "uint8"),
    "two channels": (np.zeros((9, 9, 2), np.uint8), "takes 1 "),
    "seven channels": (np.zeros((7, 9, 9), np.uint8), "takes 1 "),
    "transparent": (np.zeros((9, 9, 4), np.uint8), "band beside its colours"),
    "dark 16 bits": (np.full((9, 9), 4095, np.uint16), "16 of 256 gray levels"),
    "too large numbers": (np.full((9, 9), 300, np.int64), "from 300 to 300"),
    "negative": (np.full((9, 9), -1, np.int8), "from -1 to -1"),
    "bool": (np.zeros((9, 9), bool), r"bool \(9, 9\)"),
    "complex": (np.zeros((9, 9), complex), "complex128"),
    "texts": (np.array([["a"]]), r"<U1"),
    "objects": (np.array([[None]]), "object"),
    "bfloat16": (torch.zeros(3, 9, 9, dtype=torch.bfloat16), "bfloat16"),
    "sparse": (torch.zeros(9, 9).to_sparse(), "sparse"),
    "a tensor without values": (torch.zeros(3, 9, 9, device="meta"), "meta"),
    "a file": (io.BytesIO(png(RGB)), r"file\.read\(\)"),
    "half a PIL image": (PIL.Image.open(io.BytesIO(png(RGB)[:900])), "cannot be read"),
    "None": (None, "NoneType"),
    "a number": (7, "int"),
    "a dict": ({}, "dict"),
    "no file": ("nowhere.png", "nowhere.png: cannot be read.*no such file"),
    "an address": ("https://example.org/a.png", "an address, not a file"),
    "a checkpoint": ("runs/x/checkpoints/best.ckpt", "a file of weights, not an image"),
    "an exported file": ("m.onnx", "a file of weights, not an image"),
    "a folder": (".", "a folder, not an image"),
    "no image": (b"not an image", "The image: cannot be read"),
    "no bytes": (b"", "The image: cannot be read"),
    "half an image": (png(RGB)[:200], "The image"),
    "an empty batch": ([], "no images"),
    "an empty 4-d batch": (np.zeros((0, 9, 9, 3), np.uint8), "no images"),
    "a nested list": ([[1, 2], [3, 4]], "Image 0 of the batch: .*list"),
    "a bad second image": ([RGB, FLOAT], "Image 1 of the batch: .*float32"),
    "huge": (np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (2**14, 2**15, 3)), "megapixels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_image_is_refused_in_a_sentence(name):
    given, says = WRONG[name]
    with pytest.raises(UserError, match=says) as error:
        each(given, as_image)
    assert "segpipe-" not in str(error.value)  # the temporary file


class FiveBands:
    """As ``segpipe.data.bands.Bands``."""

    channels, form = 5, None

    def scale(self, image):
        return image.astype(np.float32) / 257


DEEP = np.random.default_rng(0).integers(0, 65536, (6, 8, 5)).astype(np.uint16)


@pytest.mark.parametrize("given", [DEEP, DEEP.transpose(2, 0, 1), torch.from_numpy(DEEP.astype(np.int32))])
def test_bands_are_scaled_as_in_training(given):
    image = as_image(given, FiveBands())
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, DEEP / 257, rtol=1e-6)


@pytest.mark.parametrize("given", [RGB, GRAY, PIL.Image.fromarray(RGB)], ids=["RGB", "gray", "PIL"])
def test_another_number_of_bands_is_refused(given):
    with pytest.raises(UserError, match="takes 5 channels"):
        as_image(given, FiveBands())


@pytest.fixture(scope="module")
def predictor(finished_run):
    return segpipe.load(finished_run, device="cpu")


def test_a_batch_gives_a_list(predictor):
    mask = predictor(RGB)
    for batch in ([RGB, GRAY], (RGB, GRAY), [png(RGB), PIL.Image.fromarray(GRAY)]):
        masks = predictor(batch)
        assert isinstance(masks, list)
        assert [one.shape for one in masks] == [(20, 30), (20, 30)]
        assert (masks[0] == mask).all()
    for batch in (np.stack([RGB] * 2), torch.from_numpy(np.stack([RGB] * 2)).permute(0, 3, 1, 2)):
        assert all((one == mask).all() for one in predictor(batch))
    assert len(predictor([RGB])) == 1


def test_probabilities_sum_to_1_and_agree_with_the_mask(predictor):
    probabilities = predictor.probabilities(RGB)
    assert (probabilities.shape, probabilities.dtype) == ((6, 20, 30), np.float32)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)
    assert (probabilities.argmax(0) == predictor(RGB)).all()
    assert len(predictor.probabilities([RGB, RGB])) == 2


def test_threads_may_share_a_predictor(finished_run):
    """Each thread computes images of other sizes; a first call in a thread meets nothing that another one builds."""
    draw = np.random.default_rng(1)
    images = [draw.integers(0, 256, (40 + 7 * n, 90 - 5 * n, 3), np.uint8) for n in range(8)]
    alone = [segpipe.load(finished_run, device="cpu").probabilities(image) for image in images]
    shared, found, grad = segpipe.load(finished_run, device="cpu"), {}, {}
    barrier = threading.Barrier(8)

    def work(number):
        barrier.wait()
        for turn in range(4):
            which = (number + turn) % 8
            found[number, turn] = (which, shared.probabilities(images[which]))
        grad[number] = torch.is_grad_enabled()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 32
    assert all(np.array_equal(result, alone[which]) for which, result in found.values())
    assert set(grad.values()) == {True}
