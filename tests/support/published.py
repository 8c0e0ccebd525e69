"""Shared by the tests that were test_encoders.py."""

import torch

from segpipe.models.encoders import IMAGENET_MEAN, IMAGENET_STD


def picture(size=64):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)) * 255


def normalised(image, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (image / 255 - mean) / std
