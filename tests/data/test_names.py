"""Names of files that other systems wrote: bytes that are not UTF-8, accents in two forms, very long ones, markup."""

import os
import unicodedata

import pytest
from support.folders import nested, report, splits, write

from segpipe.data.datasets.camvid import CamVid
from segpipe.errors import UserError

NAMES = {
    "bytes": os.fsdecode(b"a\xff\xfe"),
    "markup": "[red]x[bold",
    "braces": "{x} %s $HOME",
    "long": 240 * "x",
    "spaces": " a b ",
    "hindi": "नमस्ते",
    "newline": "a\nb",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_images_of_any_name_are_read(name, tmp_path):
    nested(tmp_path)
    for kind in ("images", "masks"):
        folder = tmp_path / "val" / kind
        os.rename(folder / "val0_0.png", folder / f"{name}.png")
    _, val, _ = splits(root=str(tmp_path))
    assert name in val.names
    assert val.read(val.names.index(name)).mask.shape == (20, 24)
    assert len(val.fingerprint()) == 16
    assert report(tmp_path).problems == []
    assert len(splits(root=str(tmp_path))[1]) == 4  # from the cache
    write(tmp_path / "images", tmp_path / "masks", first=name[:200], count=40)
    assert sum(map(len, splits(images=str(tmp_path / "images"), masks=str(tmp_path / "masks")))) == 40


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
@pytest.mark.parametrize("ending", ["", "_mask"])
def test_an_accent_pairs_with_the_same_accent_in_its_other_form(forms, ending, tmp_path):
    """macOS unpacks archives with decomposed letters, other systems with composed ones."""
    nested(tmp_path)
    for kind, form, end in zip(("images", "masks"), forms, ("", ending), strict=True):
        folder = tmp_path / "train" / kind
        os.rename(folder / "train0_0.png", folder / f"{unicodedata.normalize(form, 'Zoë é')}{end}.png")
    train = splits(root=str(tmp_path))[0]
    assert list(train.problems) == []
    assert unicodedata.normalize(forms[0], "Zoë é") in train.names
    assert len(train) == 4


def test_two_forms_of_a_name_are_two_images(tmp_path):
    nested(tmp_path)
    for kind in ("images", "masks"):
        for number, form in enumerate(("NFC", "NFD")):
            folder = tmp_path / "train" / kind
            os.rename(folder / f"train{number}_{number}.png", folder / f"{unicodedata.normalize(form, 'é')}.png")
    train = splits(root=str(tmp_path))[0]
    assert list(train.problems) == []
    assert len(train) == 4


@pytest.mark.parametrize("twice", [False, True])
def test_accents_of_a_public_data_set_are_paired_too(twice, tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / split, tmp_path / f"{split}annot", values=(0, 1))
        os.rename(tmp_path / split / "a0_0.png", tmp_path / split / f"{unicodedata.normalize('NFD', 'é')}.png")
        os.rename(tmp_path / f"{split}annot" / "a0_0.png", tmp_path / f"{split}annot" / "é.png")
    if twice:
        os.rename(tmp_path / "train" / "a1_1.png", tmp_path / "train" / "é.png")
        with pytest.raises(UserError, match="has the same stem as"):
            CamVid(root=str(tmp_path), split="train")
    else:
        assert len(CamVid(root=str(tmp_path), split="train")) == 4
