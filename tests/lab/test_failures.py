"""Two runs on the same images: what differs most, with planted differences."""

import base64
import io

import numpy as np
import PIL.Image
import pytest
from support.planes import ignore

from segpipe.data.visualise import RIGHT
from segpipe.lab.errors import TYPES
from segpipe.lab.failures import BOUNDARIES, IMAGES, REGIONS, SMALLEST_CROP, compare, passes
from segpipe.lab.pictures import ALONE_COLOURS, ERROR_COLOURS

PALETTE = [(10, 10, 10), (200, 0, 0), (0, 200, 0)]


def scene():
    truth = np.zeros((40, 60), np.uint8)
    truth[8:16, 8:16] = 1
    truth[:, 50:] = 2
    return truth


def compared(first, second, truths, **given):
    photos = [np.full((*truth.shape, 3), 90, np.uint8) for truth in truths]
    return compare(
        (lambda index: first[index], lambda index: second[index]),
        lambda index: (photos[index], truths[index]),
        run_names=("a", "b"),
        image_names=[f"image-{number}" for number in range(len(truths))],
        num_classes=3,
        palette=PALETTE,
        advance=given.get("advance", ignore),
    )


def pixels(uri):
    return np.array(PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_a_missed_object_is_the_region_that_differs_most():
    erased, shifted = scene(), scene()
    erased[8:16, 8:16] = 0
    shifted[:, 51] = 0  # ... and 40 pixels of another region
    found = compared([erased, scene()], [shifted, scene()], [scene(), scene()])
    region, other, *_ = found.different_regions
    assert (region.image, region.class_index, region.pixels, region.right) == ("image-0", 1, 64, (0.0, 1.0))
    assert region.types == ("missed object", "")
    assert (other.class_index, other.right) == (2, (1.0, 1 - 40 / 400))
    a, b = found.counts
    assert a.events[TYPES.index("missed object")] == [0, 1, 0]
    assert b.pixels[TYPES.index("hole")] == [0, 0, 40]
    assert (found.regions, found.true_pixels) == ([2, 2, 2], [2 * (2400 - 464), 2 * 64, 2 * 400])


def test_images_are_ranked_by_what_only_one_run_has_right():
    def wrong(count):
        prediction = scene()
        prediction.ravel()[:count] = 1
        return prediction

    truths = [scene() for _ in range(6)]
    first, second = [wrong(count) for count in (0, 5, 9, 0, 20, 3)], [wrong(count) for count in (0, 5, 1, 7, 20, 0)]
    found = compared(first, second, truths)
    assert [one.name for one in found.images] == ["image-2", "image-3", "image-5"]  # others have equal predictions
    assert found.images[0].alone == (0.0, 8 / 2400)
    assert found.images[0].accuracy == (1 - 9 / 2400, 1 - 1 / 2400)
    assert len(found.images) <= IMAGES


def test_a_boundary_that_only_one_run_finds():
    moved = scene()
    moved[:, 44:] = 2
    found = compared([scene()], [moved], [scene()])
    (boundary,) = found.boundaries
    assert (boundary.classes, boundary.pixels, boundary.found) == ((0, 2), 80, (1.0, 0.0))
    assert len(found.boundaries) <= BOUNDARIES


def test_equal_runs_differ_nowhere():
    found = compared([scene()], [scene()], [scene()])
    assert (found.images, found.different_regions, found.boundaries) == ([], [], [])


def test_the_images_show_types_and_who_is_right():
    erased = scene()
    erased[8:16, 8:16] = 0
    truth = scene()
    truth[0] = 255
    shown = compared([erased], [scene()], [truth]).images[0].shown
    assert (shown.height, shown.width) == (40, 60)
    assert pixels(shown.truth)[10, 10].tolist() == [200, 0, 0]
    assert pixels(shown.errors[0])[10, 10].tolist() == list(ERROR_COLOURS[0])
    assert pixels(shown.errors[1])[10, 10].tolist() == list(RIGHT)
    assert pixels(shown.alone)[10, 10].tolist() == list(ALONE_COLOURS[1])
    assert pixels(shown.alone)[0, 0].tolist() == [0, 0, 0]
    assert shown.photo.startswith("data:image/jpeg;base64,")


def test_regions_are_few_large_and_with_their_surroundings():
    truth = np.zeros((64, 96), np.uint8)
    for number in range(20):
        row, column = divmod(number, 5)
        truth[4 + 15 * row : 4 + 15 * row + 4, 4 + 18 * column : 4 + 18 * column + 4 + number % 3] = 1
    found = compared([np.zeros_like(truth)], [truth.copy()], [truth])
    assert len(found.different_regions) == REGIONS
    sizes = [one.pixels for one in found.different_regions]
    assert sizes == sorted(sizes, reverse=True)
    sides = [side for one in found.different_regions for side in (one.shown.height, one.shown.width)]
    assert min(sides) == SMALLEST_CROP  # also at the edge of the image


def test_photos_of_another_size_than_the_mask_are_resized():
    found = compare(
        (lambda index: scene(), lambda index: np.zeros((40, 60), np.uint8)),
        lambda index: (np.zeros((20, 30, 3), np.uint8), scene()),
        run_names=("a", "b"), image_names=["one"], num_classes=3, palette=PALETTE, advance=ignore,
    )  # fmt: skip
    assert (found.images[0].shown.height, found.images[0].shown.width) == (40, 60)


def test_progress_ends_at_what_was_announced():
    reported = []
    compared([scene()] * 3, [scene()] * 3, [scene()] * 3, advance=reported.append)
    assert sum(reported) == passes(3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 700)])
def test_images_of_any_shape(shape):
    truth = np.zeros(shape, np.uint8)
    found = compared([truth], [truth + 1], [truth])
    assert found.counts[1].pixels[TYPES.index("wrong class")] == [truth.size, 0, 0]
    assert max(found.images[0].shown.height, found.images[0].shown.width) <= 320
