"""Which choice of a config group was meant by one that does not exist: a name of others, or a misspelling."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from segpipe.config.schema import options

CHOICES_OF_OTHERS: dict[str, dict[str, str]] = {  # by group: names that others have for a choice of ours
    "decoder": {
        "transposed": "deconv", "transpose": "deconv", "convtranspose": "deconv", "convtranspose2d": "deconv",
        "transposedconv": "deconv", "transposedconvolution": "deconv", "upconv": "deconv", "deconvolution": "deconv",
        "upsample": "bilinear", "upsampling": "bilinear", "interpolate": "bilinear", "interpolation": "bilinear",
        "linear": "bilinear", "duc": "pixelshuffle", "subpixel": "pixelshuffle", "espcn": "pixelshuffle",
        "depthtospace": "pixelshuffle", "maxunpool": "unpool", "maxunpooling": "unpool", "unpooling": "unpool",
    },
    "fusion": {
        "add": "sum", "addition": "sum", "plus": "sum", "cat": "concat", "concatenate": "concat",
        "concatenation": "concat", "mul": "product", "multiply": "product", "attention": "attention_gate",
        "gate": "attention_gate", "off": "none", "false": "none", "null": "none", "no": "none",
    },
    "loss": {
        "ce": "cross_entropy", "xent": "cross_entropy", "nll": "cross_entropy", "softmax": "cross_entropy",
        "cedice": "cross_entropy_dice", "dicece": "cross_entropy_dice", "ohemce": "ohem", "iou": "lovasz",
        "jaccard": "lovasz",
    },
    "optimizer": {"adam": "adamw", "momentum": "sgd", "nesterov": "sgd"},
    "scheduler": {
        "none": "constant", "off": "constant", "null": "constant", "false": "constant", "polynomial": "poly",
        "polylr": "poly", "cosineannealing": "cosine", "cosineannealinglr": "cosine",
    },
    "trainer": {"gpu": "auto", "cuda": "auto", "mps": "auto", "default": "auto", "ddpgpu": "ddp"},
    "logger": {
        "off": "none", "false": "none", "null": "none", "no": "none", "csv": "none", "csvlogger": "none",
        "tensorboard": "none", "wandblogger": "wandb", "weightsandbiases": "wandb", "true": "wandb",
    },
    "augment": {"heavy": "strong", "default": "light", "off": "none", "false": "none", "null": "none", "no": "none"},
    "data": {
        "custom": "folder", "own": "folder", "images": "folder", "coco": "folder", "ade20k": "folder", "ade": "folder",
        "pascal": "voc", "pascalvoc": "voc", "voc2012": "voc", "oxfordpets": "pets", "oxfordiiitpet": "pets",
        "synthetic": "shapes",
    },
    "neck": {"off": "none", "false": "none", "null": "none", "no": "none"},
    "model": {"fcn": "fcn8s", "fcn8": "fcn8s", "fcn16": "fcn16s", "fcn32": "fcn32s", "vanillaunet": "unet"},
    "encoder": {"vgg": "vgg16", "vggnet": "vgg16", "resnet": "resnet50"},
}  # fmt: skip
REMARKS = {  # on a choice that is not quite what the word of others means
    ("logger", "none"): "; history.csv in the run's folder has the values of every epoch",
    ("trainer", "auto"): ", which takes a GPU where there is one",
    ("data", "folder"): " data.root=FOLDER, see docs/data.md",
}
ARCHITECTURES = {  # of others: the settings that are nearest to them, and what these lack
    "attentionunet": ("model=unet fusion=attention_gate", ""),
    "deeplab": ("model=fcn8s encoder=resnet50 decoder=bilinear", "atrous convolutions and their pyramid"),
    "deeplabv2": ("model=fcn8s encoder=resnet50 decoder=bilinear", "atrous convolutions and their pyramid"),
    "deeplabv3": ("model=fcn8s encoder=resnet50 decoder=bilinear", "atrous convolutions and their pyramid"),
    "deeplabv3plus": ("model=ladder encoder=resnet50 fusion=concat", "atrous convolutions and their pyramid"),
    "dpt": ("model=ladder encoder=vit", ""),
    "fcnresnet50": ("model=fcn8s encoder=resnet50", "atrous convolutions"),
    "fcnresnet101": ("model=fcn8s encoder=resnet101", "atrous convolutions"),
    "fpn": ("model=ladder encoder=resnet50 decoder=nearest fusion=sum", "predictions from several levels"),
    "hrnet": ("model=ladder encoder=timm encoder.backbone=hrnet_w18", ""),
    "linknet": ("model=ladder encoder=resnet18 decoder=deconv fusion=sum", ""),
    "nnunet": ("model=unet", "a configuration chosen from the data"),
    "ocrnet": ("model=ladder encoder=timm encoder.backbone=hrnet_w18", "object context"),
    "pspnet": ("model=fcn8s encoder=resnet50 decoder=bilinear", "pyramid pooling"),
    "resunet": ("model=unet encoder=resnet34", ""),
    "segnext": ("model=ladder encoder=timm encoder.backbone=convnext_tiny", "its encoder, MSCAN"),
    "segformer": ("model=ladder encoder=timm encoder.backbone=pvt_v2_b0", "its encoder, the Mix Transformer"),
    "segmenter": ("model=ladder encoder=vit", "its decoder of class tokens"),
    "setr": ("model=ladder encoder=vit", ""),
    "swinunet": ("model=unet encoder=timm encoder.backbone=pvt_v2_b0", "window attention"),
    "transunet": ("model=ladder encoder=vit", ""),
    "unet3d": ("model=unet", "volumes"),
    "unetplusplus": ("model=unet", "nested skips"),
    "unet3plus": ("model=unet", "skips between all levels"),
    "upernet": ("model=ladder encoder=timm encoder.backbone=convnext_tiny", "pyramid pooling"),
}
NOTHING_LIKE = (
    "bisenet",
    "enet",
    "erfnet",
    "icnet",
    "unext",
    "mask2former",
    "maskformer",
    "maskrcnn",
    "oneformer",
    "sam",
    "yolo",
)  # networks of others
BACKBONES = {  # beginnings of names: the choice of the encoder that has backbones of this kind
    "efficientnet": "timm encoder.backbone=efficientnet_b0",
    "convnext": "timm encoder.backbone=convnext_tiny",
    "mobilenet": "timm encoder.backbone=mobilenetv3_large_100",
    "mobilenetv2": "timm encoder.backbone=mobilenetv2_100",
    "hrnet": "timm encoder.backbone=hrnet_w18",
    "densenet": "timm encoder.backbone=densenet121",
    "regnet": "timm encoder.backbone=regnety_032",
    "resnext": "timm encoder.backbone=resnext50_32x4d",
    "resnet152": "timm encoder.backbone=resnet152",
    "wideresnet": "timm encoder.backbone=wide_resnet50_2",
    "seresnet": "timm encoder.backbone=seresnet50",
    "res2net": "timm encoder.backbone=res2net50_26w_4s",
    "xception": "timm encoder.backbone=xception41",
    "darknet": "timm encoder.backbone=darknet53",
    "ghostnet": "timm encoder.backbone=ghostnet_100",
    "pvt": "timm encoder.backbone=pvt_v2_b0",
    "swin": "timm encoder.backbone=pvt_v2_b0",
    "mit": "timm encoder.backbone=pvt_v2_b0",
    "dinov2": "vit",
    "dinov3": "vit encoder.backbone=vit_small_patch16_dinov3",
    "dino": "vit",
    "clip": "vit encoder.backbone=vit_base_patch16_clip_224",
    "deit": "vit encoder.backbone=deit_small_patch16_224",
    "vit": "vit encoder.backbone=vit_base_patch16_224",
    "vgg": "vgg16",
    "resnet": "resnet50",
}
NOT_OF_TIMM = {"swin": "Swin's windows take images of one size", "mit": "timm has no Mix Transformer"}
PARTS = ("model", "encoder", "neck", "decoder")  # groups for which the name of a network or of a backbone may be typed
OF_ANY_GROUP = ("none",)  # says nothing about which group is meant


def choice_hint(group: str, given: str, allowed: Sequence[str]) -> str:
    """Return a sentence on which choice of a config group is meant by one that does not exist; empty if none is known.

    A name that others use comes first, then a choice of another group, then a misspelling.
    """
    word = squash(Path(given).name.removesuffix(".yaml"))
    if same := [name for name in allowed if squash(name) == word or squash(Path(name).name) == word]:
        return f" Did you mean '{same[0]}'?"
    if (ours := CHOICES_OF_OTHERS.get(group, {}).get(word)) in allowed:
        return f" Write {group}={ours}{REMARKS.get((group, str(ours)), '')}"
    others = [f"{other}={name}" for other in PARTS for name in options(other) if squash(name) == word]
    if others and word not in OF_ANY_GROUP:
        return f" It is another part of the network: {' or '.join(others)}"
    if group in PARTS and (text := network_hint(given, word)):
        return text
    return misspelling(word, allowed)


def network_hint(given: str, word: str) -> str:
    """Return what is nearest to a network or a backbone of others; empty if it is not known. word: squashed."""
    if word in NOTHING_LIKE:
        return f" {given} is not in segpipe, and nothing like it."
    if word in ARCHITECTURES:
        settings, lacking = ARCHITECTURES[word]
        return f" {given} is not in segpipe. The nearest to it: {settings}{lacking and f', without {lacking}'}"
    kind = max((beginning for beginning in BACKBONES if word.startswith(beginning)), key=len, default=None)
    if kind is None:
        return ""
    reason = f"{NOT_OF_TIMM[kind]}; the nearest" if kind in NOT_OF_TIMM else "It is an encoder"
    others = ", or another one of timm" if "timm" in BACKBONES[kind] and kind not in NOT_OF_TIMM else ""
    return f" {reason}: encoder={BACKBONES[kind]}{others}"


def misspelling(word: str, allowed: Sequence[str]) -> str:
    """Return ``Did you mean ...?`` for a word that is probably a misspelling of an allowed one. word: squashed."""
    by_letters = {squash(Path(name).name): name for name in reversed(allowed)}
    close = difflib.get_close_matches(word, by_letters, n=1, cutoff=0.75)
    begun = [
        name
        for letters, name in by_letters.items()
        if (len(letters) > 3 and word.startswith(letters)) or (len(word) > 3 and word in letters)
    ]
    meant = by_letters[close[0]] if close else begun[0] if len(begun) == 1 else ""
    return f" Did you mean '{meant}'?" if meant else ""


def squash(name: str) -> str:
    """Return the letters and digits of a name, in lower case; ``+`` is ``plus``."""
    return re.sub(r"[\W_]", "", name.lower().replace("+", "plus"))
