"""A choice that does not exist: the hint is true, and what it names can be used."""

import importlib.util
import re

import pytest
import torch
from hydra import compose, initialize_config_dir

from segpipe.config.choice_hints import ARCHITECTURES, BACKBONES, CHOICES_OF_OTHERS, REMARKS, choice_hint
from segpipe.config.schema import CONF, options
from segpipe.models.encoders import FeaturePyramid, Timm


def hint(override):
    group, _, given = override.partition("=")
    return choice_hint(group, given, options(group))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model=segformer", "segformer is not in segpipe. The nearest to it: model=ladder encoder=timm"),
        ("model=SegNeXt", "The nearest to it: model=ladder encoder=timm encoder.backbone=convnext_tiny"),
        ("model=pspnet", "is not in segpipe. The nearest to it: model=fcn8s encoder=resnet50"),
        ("model=PSPNet", "without pyramid pooling"),
        ("model=deeplab", "without atrous convolutions"),
        ("model=deeplabv3", "without atrous convolutions"),
        ("model=deeplabv3+", "fusion=concat, without atrous convolutions"),
        ("model=unet++", "unet++ is not in segpipe. The nearest to it: model=unet, without nested skips"),
        ("model=UnetPlusPlus", "model=unet, without nested skips"),
        ("model=fpn", "model=ladder encoder=resnet50 decoder=nearest fusion=sum"),
        ("model=hrnet", "encoder.backbone=hrnet_w18"),
        ("model=mask2former", "mask2former is not in segpipe, and nothing like it"),
        ("model=upernet", "without pyramid pooling"),
        ("model=linknet", "model=ladder encoder=resnet18 decoder=deconv fusion=sum"),
        ("model=fcn", "Write model=fcn8s"),
        ("model=fcn_resnet50", "model=fcn8s encoder=resnet50, without atrous convolutions"),
        ("model=vgg", "It is an encoder: encoder=vgg16"),
        ("model=vgg16", "It is another part of the network: encoder=vgg16"),
        ("model=resnet", "It is an encoder: encoder=resnet50"),
        ("model=efficientnet-b3", "encoder=timm encoder.backbone=efficientnet_b0, or another one of timm"),
        ("encoder=efficientnet_b0", "encoder=timm encoder.backbone=efficientnet_b0"),
        ("encoder=convnext", "encoder=timm encoder.backbone=convnext_tiny"),
        ("encoder=mobilenet_v3_large", "encoder.backbone=mobilenetv3_large_100"),
        ("encoder=dinov2", "encoder=vit"),
        ("encoder=swin", "Swin's windows take images of one size; the nearest: encoder=timm"),
        ("encoder=mit_b0", "timm has no Mix Transformer; the nearest"),
        ("encoder=resnet152", "encoder=timm encoder.backbone=resnet152"),
        ("encoder=vgg", "Write encoder=vgg16"),
        ("encoder=ResNet-18", "Did you mean 'resnet18'?"),
        ("decoder=unet", "model=unet"),
        ("decoder=Bilinear", "Did you mean 'bilinear'?"),
        ("decoder=BILINEAR", "Did you mean 'bilinear'?"),
        ("decoder=bi-linear", "Did you mean 'bilinear'?"),
        ("decoder=pixel_shuffle", "Did you mean 'pixelshuffle'?"),
        ("decoder=biliner", "Did you mean 'bilinear'?"),
        ("decoder=transposed_conv", "Write decoder=deconv"),
        ("decoder=upsample", "Write decoder=bilinear"),
        ("decoder=conf/decoder/deconv.yaml", "Did you mean 'deconv'?"),
        ("fusion=add", "Write fusion=sum"),
        ("fusion=cat", "Write fusion=concat"),
        ("loss=ce", "Write loss=cross_entropy"),
        ("loss=focal_loss", "Did you mean 'focal'?"),
        ("optimizer=Adam", "Write optimizer=adamw"),
        ("scheduler=none", "Write scheduler=constant"),
        ("trainer=gpu", "Write trainer=auto, which takes a GPU where there is one"),
        ("logger=tensorboard", "Write logger=none; history.csv"),
        ("data=coco", "Write data=folder data.root=FOLDER"),
        ("experiment=sweep_shape", "Did you mean 'sweep_shapes'?"),
    ],
)
def test_the_hint_names_what_is_meant(override, says):
    group, _, name = override.partition("=")
    if name in options(group):
        pytest.skip(f"{override} is a choice by now, and needs no hint")
    assert says in hint(override)


@pytest.mark.parametrize(
    "override",
    ["model=segmodel", "model=alexa", "decoder=none", "decoder=magic", "callbacks=none", "data=imagenet", "encoder=x"],
)
def test_another_thing_is_not_suggested(override):
    assert hint(override) == ""


def test_every_choice_that_a_hint_names_exists():
    for group, words in CHOICES_OF_OTHERS.items():
        assert set(words.values()) <= set(options(group))
        assert not set(words) & set(options(group))
    assert all(name in options(group) for group, name in REMARKS)


@pytest.mark.parametrize(
    "settings",
    sorted(
        {settings for settings, _ in ARCHITECTURES.values() if settings}
        | {f"encoder={one}" for one in BACKBONES.values()}
    ),
)
def test_the_settings_that_a_hint_names_can_be_composed(settings):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose("train", settings.split())


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("settings", sorted(one for one in set(BACKBONES.values()) if "backbone" in one))
def test_the_backbones_that_a_hint_names_are_timms(settings):
    encoder, backbone = re.fullmatch(r"(\w+) encoder.backbone=(\w+)", settings).groups()
    with torch.device("meta"):
        assert {"timm": Timm, "vit": FeaturePyramid}[encoder](backbone=backbone).channels
