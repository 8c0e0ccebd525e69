"""The trial of the augmentation before a training."""

import time

import albumentations as A
import pytest
from support.configs import TINY, configure

from segpipe.config import build
from segpipe.data.augment import Augment, strict
from segpipe.data.augment_trial import check_augment
from segpipe.errors import UserError

OFTEN, RARELY = {"p": 1.0}, {"p": 0.01}


def check(after=(), before=(), crop=(32, 32), **options):
    augment = Augment(before_crop=list(before), after_crop=list(after), crop=list(crop) if crop else None)
    given = {"size": (96, 80), "num_classes": 6, "channels": None, "smallest": 16, "batched": True}
    check_augment(augment, **given | options)


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (A.Normalize(**RARELY), "Normalize made float32 with 3 channels of an image of uint8"),
        (A.ToFloat(**RARELY), "ToFloat made float32"),
        (A.ToGray(num_output_channels=1, **RARELY), "ToGray made uint8 with no channels"),
        (A.ToTensorV2(), "ToTensorV2 made torch.uint8"),
        (A.OneOf([A.HorizontalFlip(), A.Normalize()], **RARELY), "Normalize made float32"),
        (A.SomeOf([A.NoOp(), A.Sequential([A.NoOp(), A.ToFloat()])], n=1, **RARELY), "Sequential made float32"),
        (A.CoarseDropout(fill_mask=77, **RARELY), "CoarseDropout makes the label 77"),
        (A.PadIfNeeded(64, 64, fill_mask=6), "PadIfNeeded makes the label 6"),
        (A.PixelDropout(mask_drop_value=9, **RARELY), "PixelDropout makes the label 9"),
        (A.Rotate(mask_interpolation=1, **RARELY), "Rotate makes the label .*mask_interpolation to 0"),
        (A.RandomCrop(64, 64, **RARELY), "RandomCrop fails on an image of 32 x 32 pixels"),
        (A.Mosaic(**RARELY), "Mosaic fails on an image"),
        (A.CenterCrop(8, 8, **RARELY), "make images of 8 pixels; this encoder needs at least 16 x 16"),
        (A.CenterCrop(24, 24, **RARELY), r"different sizes \(24 x 24 and 32 x 32\)"),
        (strict(A.RandomScale, p=1.0), "different sizes"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_transform_that_spoils_batches_is_refused_by_its_name(transform, says):
    """However rarely it is applied."""
    with pytest.raises(UserError, match=f"augment: .*{says}") as caught:
        check([transform])
    assert "\n" not in str(caught.value)


def test_a_transform_that_is_never_applied_is_not_tried():
    check([A.Normalize(p=0)])


@pytest.mark.parametrize(
    "transform",
    [
        A.HorizontalFlip(), A.RandomRotate90(), A.Transpose(), strict(A.ColorJitter), strict(A.CoarseDropout),
        A.CoarseDropout(fill_mask=3), A.ElasticTransform(), A.MaskDropout(), A.CenterCrop(24, 24, p=1.0),
        A.OneOf([A.HorizontalFlip(), A.VerticalFlip()]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_transform_that_keeps_images_and_labels_is_allowed(transform):
    check([transform])


def test_sizes_may_differ_before_the_crop_and_where_a_batch_is_one_image():
    check(before=[strict(A.RandomScale, scale_limit=[-0.5, 1.0], p=1.0)])
    check([A.Transpose()], crop=None, batched=False)
    for options in ({"crop": None}, {"crop": (32, 64)}):
        with pytest.raises(UserError, match="different sizes"):
            check([A.Transpose()], **options)


@pytest.mark.parametrize("channels", [1, 2, 5, 200])
def test_images_of_bands_are_tried_as_such(channels):
    check([A.HorizontalFlip(), strict(A.ColorJitter)], channels=channels)
    with pytest.raises(UserError, match="label 77"):
        check([A.CoarseDropout(fill_mask=77)], channels=channels)


def test_a_crop_before_the_crop_that_is_larger_than_an_image_is_refused():
    with pytest.raises(UserError, match="RandomCrop fails on an image of 96 x 80 pixels"):
        check(before=[A.RandomCrop(300, 300)])


@pytest.mark.parametrize("name", ["none", "light", "strong"])
def test_the_trial_reads_no_file_and_takes_no_time(name, monkeypatch):
    data = build.data(configure(*TINY, f"augment={name}", "data.crop=[64,64]"))
    monkeypatch.setattr(type(data.stored("train")), "read", None)
    data.check_augment(16)
    began = time.perf_counter()
    data.check_augment(16)
    assert time.perf_counter() - began < 2


def test_draws_of_the_training_are_those_without_the_trial():
    drawn = []
    for tried in (False, True):
        data = build.data(configure(*TINY, "augment=strong", "data.crop=[64,64]"))
        if tried:
            data.check()
        drawn.append(data.samples("train", train=True)[[(1, 2), (1, 3)]])
    assert all((drawn[0][key] == drawn[1][key]).all() for key in drawn[0])
