"""Files of weights that other programs wrote: what is plain data is read, everything else is refused in one line."""

import argparse
import bz2
import datetime
import lzma
import os
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.configs import configure

from segpipe.config import build
from segpipe.errors import UserError
from segpipe.training import pretrained, weights_file

WEIGHTS = {"conv.weight": torch.ones(4, 3, 3, 3), "conv.bias": torch.zeros(4)}


def refusal(path):
    with pytest.raises(UserError) as error:
        weights_file.read_state_dict(path, f"encoder.weights={path.name}")
    text = str(error.value)
    assert text.startswith(f"encoder.weights={path.name}: ")
    assert "\n" not in text
    assert "weights_only" not in text  # torch's advice to load the file without protection
    return text


@pytest.mark.parametrize(
    ("beginning", "says"),
    [
        (b"\xef\xbb\xbf<!DOCTYPE html>", "a page of the web"),
        (b'\n\n <?xml version="1.0"?><Error>AccessDenied</Error>', "a page of the web"),
        (b"Not Found", "a text, not weights. It begins with 'Not Found'"),
        (b"[1, 2]", "a JSON file"),
        (b"\0" * 5000, "its download has not finished"),
        (bz2.compress(b"x" * 99), "compressed by bzip2"),
        (lzma.compress(b"x" * 99), "compressed by xz"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "compressed by zstd"),
        (b"\x89HDF\r\n\x1a\n", "a file of HDF5"),
        (b"\x93NUMPY\x01\x00", "an array of numpy"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x89PNG\r\n\x1a\n", "an image"),
        (b"%PDF-1.5", "a PDF"),
        (b"\x7fELF\x02", "a program"),
        (b"\x08\x07\x12\x07pytorch" + b"\0" * 99, "not a state dict that can be read"),
        (b"x.txt" + b"\0" * 252 + b"ustar" + b"\0" * 5000, "not a state dict that can be read"),
        (pickle.dumps({"w": 1}, protocol=4), "not a state dict that can be read"),
    ],
)
def test_a_file_of_another_format_is_named(beginning, says, tmp_path):
    (tmp_path / "x.pth").write_bytes(beginning)
    assert says in refusal(tmp_path / "x.pth")


class Runs:
    """A class whose object would run a program when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": WEIGHTS, "x": Runs()}, "objects of classes (posix.system)"),
        ({"w": np.zeros(3)}, "objects of classes (numpy"),
        ({"w": torch.zeros(3, device="meta")}, "w has a shape but no numbers (device meta)"),
        ({"w": torch.ones(3).to_sparse()}, "not a dense tensor"),
        ({"w": torch.zeros(3, dtype=torch.int8)}, "w holds torch.int8"),
        ({"w": torch.zeros(3, dtype=torch.complex64)}, "w holds torch.complex64"),
        ({"w": torch.zeros(3).to(torch.float8_e4m3fn)}, "w holds torch.float8_e4m3fn"),
        ({"w": torch.full((3,), torch.nan)}, "w holds numbers that are not finite. Give a file with finite numbers"),
        ([torch.zeros(3)], "contains no tensors"),
        (None, "contains no tensors"),
        ({}, "contains no tensors"),
    ],
)
def test_a_file_without_plain_weights_is_refused(content, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "x.pth")
    assert says in refusal(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "beside",
    [
        np.float64(0.7),
        np.float32(0.7),
        np.int64(3),
        np.bool_(True),
        pathlib.Path("x"),
        datetime.datetime(2026, 1, 1),
        argparse.Namespace(lr=1),
        types.SimpleNamespace(lr=1),
        torch.float16,
        torch.Size([1]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_plain_data_beside_the_weights_are_no_obstacle(beside, tmp_path):
    torch.save({"state_dict": WEIGHTS, "beside": beside}, tmp_path / "x.pth")
    read = weights_file.read_state_dict(tmp_path / "x.pth", "encoder.weights=x.pth")
    assert read.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_a_file_of_safetensors_is_read(name, tmp_path):
    save_file(WEIGHTS | {"mask": torch.ones(2, dtype=torch.bool)}, tmp_path / name)
    read = weights_file.read_state_dict(tmp_path / name, f"encoder.weights={name}")
    assert read.keys() == WEIGHTS.keys()  # a mask of bools is no weight
    assert torch.equal(read["conv.weight"], WEIGHTS["conv.weight"])


@pytest.mark.parametrize("kept", [0, 5, 30, 200])
def test_a_file_of_safetensors_that_is_cut_is_refused(kept, tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:kept])
    assert ("the file is cut or damaged" if kept else "the file is empty") in refusal(tmp_path / "model.safetensors")


def test_a_file_of_safetensors_needs_its_library(tmp_path, monkeypatch):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert refusal(tmp_path / "model.safetensors").endswith("needs this library: pip install safetensors")


def test_a_flipped_bit_is_found(tmp_path):
    torch.save({"w": torch.ones(5000)}, tmp_path / "x.pth")
    content = bytearray((tmp_path / "x.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.pth").write_bytes(content)
    assert "the file is damaged: the checksum" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("member", "says"),
    [("w.npy", "arrays of numpy"), ("weights.pth", r"a zip file of other files (weights.pth). Unpack it")],
)
def test_a_zip_file_of_others_is_named(member, says, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr(member, b"x")
    assert says in refusal(tmp_path / "x.pth")


def test_a_program_of_torchscript_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"x")
        archive.writestr("x/code/__torch__.py", b"x")
    assert "a program of TorchScript. Save its weights" in refusal(tmp_path / "x.pt")


def test_a_folder_a_link_and_an_address_are_named(tmp_path):
    (tmp_path / "hub").mkdir()
    assert "a folder. Give a file of weights" in refusal(tmp_path / "hub")
    (tmp_path / "hub" / "pytorch_model.bin").touch()
    assert "Give a file in it, such as pytorch_model.bin" in refusal(tmp_path / "hub")
    (tmp_path / "x.pth").symlink_to("nowhere")
    assert "a link to a file that does not exist" in refusal(tmp_path / "x.pth")
    assert weights_file.problem_of_file(pathlib.Path("https://x.org/w.pth")).startswith("an address, not a file")


def test_a_download_of_timm_without_a_network_is_one_line(monkeypatch):
    class Library:
        def create_model(self, *args, **named):
            raise OSError("We couldn't connect to the hub\nmore")

    cfg = configure("encoder=timm", "encoder.backbone=resnet18", "encoder.weights=DEFAULT", "neck=none")
    network = build.network(cfg, 3)
    monkeypatch.setattr(pretrained, "library", Library)
    with pytest.raises(UserError, match=r"cannot be downloaded \(We couldn't connect to the hub\)"):
        pretrained.load_encoder(network, cfg)
