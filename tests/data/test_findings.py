"""What the splits of a data set say about one another."""

import re

import numpy as np
import pytest

from segpipe.data.findings import find_notes, find_problems

CLASSES = ["background", "cell", "debris"]
GOOD = np.array([9, 5, 3])


@pytest.mark.parametrize(
    ("pixels", "split", "says"),
    [
        ({"train": np.array([9, 5, 0]), "val": GOOD}, "train", "debris.*val contains it.*cannot be learned"),
        ({"train": GOOD, "test": np.array([9, 0, 0])}, "test", "only background"),
        ({"train": GOOD, "val": np.array([0, 0, 0])}, "val", "no mask has a labelled pixel"),
    ],
)
def test_what_is_wrong_is_said_of_its_split(pixels, split, says):
    ((found, text),) = find_problems(CLASSES, pixels)
    assert found == split
    assert re.search(says, text)


def test_nothing_is_said_of_splits_that_are_right_or_not_known():
    assert find_problems(CLASSES, {"train": GOOD, "val": GOOD}) == []
    assert find_problems(CLASSES, {}) == []
    assert find_notes({"train": 1, "val": 2, "test": 3}) == []
    assert len(find_notes({"val": 1, "test": 1})) == 2
