"""Outlines of regions: drawn again, they give the mask."""

import cv2
import numpy as np
import pytest

from segpipe.data.polygons import feature_collection


def drawn(collection, shape):
    """The mask of a collection, by the even-odd rule at pixel centres."""
    mask = np.full(shape, 255, np.uint8)
    for feature in collection["features"]:
        inside = np.zeros(shape, np.uint8)
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
            filled = np.zeros((4 * shape[0], 4 * shape[1]), np.uint8)
            cv2.fillPoly(filled, [np.array(ring) * 4], 1)
            inside ^= filled[2::4, 2::4]
        assert inside.sum() == feature["properties"]["pixels"]
        assert (mask[inside > 0] == 255).all()  # no two polygons share a pixel
        mask[inside > 0] = feature["properties"]["index"]
    return mask


def area(ring):
    x, y = np.array(ring).T
    return (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 13), (24, 20)], ids=str)
def test_polygons_give_the_mask(shape, seed):
    mask = np.random.default_rng(seed).integers(0, 2 + seed % 3, shape).astype(np.uint8)
    collection = feature_collection(mask, ["a", "b", "c", "d"])
    assert (drawn(collection, shape) == mask).all()
    for feature in collection["features"]:
        outer, *holes = feature["geometry"]["coordinates"]
        assert area(outer) > 0
        assert all(area(hole) < 0 for hole in holes)
        assert area(outer) + sum(map(area, holes)) == feature["properties"]["pixels"]


def test_a_ring_with_a_hole_in_coordinates_of_a_map():
    mask = np.ones((6, 8), np.uint8)
    mask[2:4, 3:5] = 0
    collection = feature_collection(
        mask, ["hole", "field"], transform=lambda points: points * [10, -10] + [500, 900], crs="EPSG:32633"
    )
    assert [one["properties"]["class"] for one in collection["features"]] == ["hole", "field"]
    hole, field = (one["geometry"]["coordinates"] for one in collection["features"])
    assert len(field) == 2
    assert sorted(map(tuple, hole[0]))[0] == (530.0, 860.0)
    assert area(field[0]) == 48 * 100
    assert area(field[1]) == -4 * 100
    assert collection["crs"]["properties"]["name"] == "EPSG:32633"
