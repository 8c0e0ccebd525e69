"""A run in one file for other people: nothing of the machine is in it, and it comes back as the same run."""

import getpass
import json
import os
import re
import shutil
import socket
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
import yaml

import segpipe
from segpipe import archive as command
from segpipe.engine import shared
from segpipe.engine.export import export
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError
from segpipe.evaluate import evaluate
from segpipe.inspect import inspect
from segpipe.predict import predict
from segpipe.report import report
from segpipe.runs import archive, checkpoints
from segpipe.runs.run import Run

pytest.importorskip("safetensors", reason="the extra `export` is not installed")
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
SECRETS = ["/home/anna", "anna-laptop", "/data/private", "abc123xyz", "anna_team", "C:\\\\Users", "C:\\Users", "424242"]


@pytest.fixture(scope="module")
def lived_in(finished_run, tmp_path_factory):
    """A run that has been on a machine: paths, a host, accounts and process numbers in its files."""
    folder = tmp_path_factory.mktemp("anna") / "run"
    shutil.copytree(finished_run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["run_dir"] = "/home/anna/outputs/runs/x"
    config["warm_start"] = "/home/anna/outputs/runs/before"
    config["data"]["root"] = "/data/private/patients"
    config["data"]["cache"] = "C:\\Users\\anna\\cache"
    config["logger"] = {
        "_target_": "segpipe.training.tracking.wandb_logger",
        "entity": "anna_team",
        "id": "abc123xyz",
        "save_dir": "/home/anna/wandb",
    }
    config["trainer"]["default_root_dir"] = "/home/anna"
    config["encoder"]["weights"] = "/home/anna/weights/small.pth"
    config["callbacks"]["best"]["dirpath"] = "/home/anna/outputs/runs/x/checkpoints"
    config["stages"] = ["/home/anna/stage1"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = json.loads((folder / "run.json").read_text())
    record |= {
        "host": "anna-laptop", "pid": 424242, "wandb_id": "abc123xyz", "error": "no file /home/anna/x",
        "options": ["--config-dir=/home/anna/conf"], "starts": [{"host": "anna-laptop", "time": "x"}],
        "lineage": [{"run": "/home/anna/outputs/runs/before"}], "warm_start": "/home/anna/outputs/runs/before",
        "overrides": [
            "seed=0", "decoder=deconv", "data.root=/data/private/patients", "logger.entity=anna_team",
            "++logger.id=abc123xyz", "encoder.weights=/home/anna/weights/small.pth", "hydra.run.dir=/home/anna/o",
            "warm_start=/home/anna/outputs/runs/before", "trainer.default_root_dir=/home/anna",
        ],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "output.log").write_text("from /home/anna on anna-laptop")
    return folder


@pytest.fixture(scope="module")
def file(lived_in, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model.zip"
    shared.share(Predictor(lived_in, device="cpu"), out, licence="CC-BY-4.0")
    return out


def members(path):
    with zipfile.ZipFile(path) as content:
        return {entry.filename: content.read(entry) for entry in content.infolist()}


def texts(content):
    """Everything that can be read in a file, those within its members too."""
    return "\n".join(f"{name}\n{data.decode('latin-1')}" for name, data in content.items())


def test_nothing_of_the_machine_is_in_it(file, lived_in):
    content = members(file)
    text = texts(content)
    here = [str(lived_in), os.path.expanduser("~") + "/", socket.gethostname(), sys.prefix]
    for secret in [*SECRETS, *here]:
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text), secret
    if len(getpass.getuser()) > 4:
        assert not re.search(rf"\b{getpass.getuser()}\b", text)
    assert sorted(content) == sorted(
        ["README.md", "boundaries/test.npz", "config.yaml", "confusion/test.npz", "confusion/val.npz", "history.csv",
         "metrics.json", "model.json", "model.safetensors", "run.json"]
    )  # fmt: skip
    record = json.loads(content["run.json"])
    assert record["overrides"] == ["seed=0", "decoder=deconv", "encoder.weights=small.pth"]
    assert record.keys() <= {*shared.KEPT, "overrides"}


def test_a_safetensors_file_has_nothing_of_the_machine_either(lived_in, tmp_path):
    predictor = Predictor(lived_in, device="cpu")
    shared.write_safetensors(predictor, shared.facts_of(predictor), tmp_path / "m.safetensors")
    text = (tmp_path / "m.safetensors").read_bytes().decode("latin-1")
    assert [secret for secret in [*SECRETS, str(lived_in)] if secret in text] == []


def test_the_card_says_what_a_reader_needs(file, lived_in):
    card = members(file)["README.md"].decode()
    metrics = json.loads((lived_in / "metrics.json").read_text())
    for words in (
        "| licence | CC-BY-4.0 |",
        "background, striped, checkered, ellipse, disc, curve",
        "Data set: shapes.",
        "| train | 16 |",
        "| test | 7 |",
        f"| miou | {metrics['val']['miou']:.4f} | {metrics['test']['miou']:.4f} |",
        "- epochs: 2",
        "**To be filled in by the author.** For which images",
        'segpipe.load("model.zip")',
    ):
        assert words in card, words


def test_without_a_licence_the_card_has_a_line_to_fill_in(lived_in, tmp_path):
    shared.share(Predictor(lived_in, device="cpu"), tmp_path / "m.zip")
    assert "licence | **To be filled in" in members(tmp_path / "m.zip")["README.md"].decode()


def test_the_file_predicts_as_the_run(file, finished_run, tmp_path, capsys):
    run, copy = segpipe.load(finished_run, device="cpu"), segpipe.load(file, device="cpu")
    assert np.array_equal(run.probabilities(RGB), copy.probabilities(RGB))
    assert (run.classes, run.palette, run.size) == (copy.classes, copy.palette, copy.size)
    shared_weights = tmp_path / "m.safetensors"
    shared_weights.write_bytes(members(file)["model.safetensors"])
    assert np.array_equal(run.probabilities(RGB), segpipe.load(shared_weights, device="cpu").probabilities(RGB))
    archive_of = tmp_path / "a.png"
    import PIL.Image

    PIL.Image.fromarray(RGB).save(archive_of)
    assert predict(file, {"a": archive_of}, tmp_path / "masks", device="cpu") == 0
    assert (tmp_path / "masks" / "a_mask.png").is_file()


def test_a_restored_folder_is_a_run_for_every_command(file, finished_run, tmp_path):
    runs = tmp_path / "runs"
    shared.restore(file, runs / "copy")
    metrics = json.loads((finished_run / "metrics.json").read_text())
    again = evaluate(runs / "copy", overrides=[], split="test", out=tmp_path / "e", device="cpu")
    assert again["miou"] == metrics["test"]["miou"]
    report(runs, out=tmp_path / "report", resamples=100)
    assert "deconv" in (tmp_path / "report" / "report.html").read_text()
    before, after = (checkpoints.read(Run(place).best_checkpoint()) for place in (finished_run, runs / "copy"))
    assert after["epoch"] == before["epoch"]
    assert all(
        torch.equal(tensor, after["state_dict"][name])
        for name, tensor in before["state_dict"].items()
        if name.startswith("network.")
    )
    shared.share(Predictor(runs / "copy", device="cpu"), tmp_path / "model.zip", licence="CC-BY-4.0")
    assert members(tmp_path / "model.zip") == members(file)  # shared again, it is the same
    with pytest.raises(UserError, match="Give a new folder"):
        shared.restore(file, runs / "copy")


def test_a_shared_file_is_evaluated_into_a_folder_that_is_given(file, finished_run, tmp_path):
    with pytest.raises(UserError, match="--out FOLDER"):
        evaluate(file, overrides=[], split="test", device="cpu")
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert evaluate(file, overrides=[], split="test", out=tmp_path, device="cpu")["miou"] == metrics["test"]["miou"]


def test_the_data_of_a_shared_run_are_given_and_the_message_names_the_file(file, tmp_path):
    config = yaml.safe_load(members(file)["config.yaml"])
    places = dict.fromkeys(("root", "images", "masks", "lists"))
    config["data"] |= {"name": "folder", "root": None}
    config["data"]["dataset"] = {"_target_": "segpipe.data.folder.Folder", "_partial_": True, **places}
    other = rewrite(file, tmp_path / "folder.zip", changes={"config.yaml": yaml.safe_dump(config).encode()})
    says = r"folder\.zip: give the folder of the data again.* --data data=folder data\.root=FOLDER.* It has none"
    with pytest.raises(UserError, match=says):
        evaluate(other, overrides=[], split="test", out=tmp_path / "scores", device="cpu")


def test_the_commands(file, lived_in, tmp_path, monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["archive", *map(str, words)])
        command.main()
        return capsys.readouterr().out

    out = tmp_path / "x.zip"
    assert "fill in what only you know" in call("--share", lived_in, "--out", out)
    assert "segpipe.predict" in call("--restore", out, tmp_path / "back")
    assert Run.open(tmp_path / "back").best_checkpoint().is_file()
    ended = tmp_path / "ended"
    shutil.copytree(lived_in, ended)
    record = json.loads((ended / "run.json").read_text())
    (ended / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    assert "Note: the run is interrupted: its best" in call("--share", ended, "--out", tmp_path / "y.zip")
    export(ended, form="safetensors", out=tmp_path / "y.safetensors")
    assert "Note: the run is interrupted: its best" in capsys.readouterr().out
    for words, says in (((), "give one of"), (("a", "--share", "b"), "give one of")):
        with pytest.raises(SystemExit):
            call(*words)
        assert says in capsys.readouterr().err
    for given, says in ((out, "this is the file that is read"), (tmp_path / "x.tar", "has to end with .zip")):
        with pytest.raises(SystemExit):
            call("--share", out, "--out", given)
        assert says in capsys.readouterr().err


def rewrite(path, out, *, changes=None, leave_out=(), compress=zipfile.ZIP_STORED, change=lambda entry: None):
    """Write a file again, as a stranger could."""
    content = {name: data for name, data in members(path).items() if name not in leave_out} | (changes or {})
    with zipfile.ZipFile(out, "w") as target:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = compress
            change(entry)
            target.writestr(entry, data)
    return out


def header(content, **changes):
    """The bytes of a safetensors file with another header."""
    (length,) = struct.unpack("<Q", content[:8])
    head = json.loads(content[8 : 8 + length])
    for key, value in changes.items():
        head[key] = value
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def metadata(content, **changes):
    (length,) = struct.unpack("<Q", content[:8])
    return header(content, __metadata__=json.loads(content[8 : 8 + length])["__metadata__"] | changes)


EVIL = "encoder:\n  _target_: os.system\n"


def with_config(data, text):
    config = yaml.safe_load(data["config.yaml"])
    config["encoder"] = yaml.safe_load(text)["encoder"]
    return {"config.yaml": yaml.safe_dump(config).encode()}


def weights_of(data, tensors):
    import safetensors.torch

    state = safetensors.torch.load(data["model.safetensors"])
    return {"model.safetensors": safetensors.torch.save({**state, **tensors})}


def first_tensor(data):
    import safetensors.torch

    return next(iter(sorted(safetensors.torch.load(data["model.safetensors"]).items())))


STRANGE = {
    "a member outside": (lambda d: {"changes": {"../evil": b"x"}}, "is not a file of a shared run"),
    "another member": (lambda d: {"changes": {"setup.py": b"x"}}, "is not a file of a shared run"),
    "a link": (
        lambda d: {"change": lambda entry: setattr(entry, "external_attr", 0o120777 << 16)},
        "is not a regular file",
    ),
    "no weights": (lambda d: {"leave_out": ["model.safetensors"]}, "is missing"),
    "no record": (lambda d: {"leave_out": ["run.json"]}, "is missing"),
    "compressed weights": (lambda d: {"compress": zipfile.ZIP_DEFLATED}, "weights are compressed"),
    "a sweep": (lambda d: {"changes": {"archive.json": b"{}"}}, "the archive of a sweep"),
    "a damaged record": (lambda d: {"changes": {"run.json": b'{"status": "done"}'}}, "run.json is damaged"),
    "damaged facts": (lambda d: {"changes": {"model.json": b"{}"}}, "metadata is damaged"),
    "a class of its own": (lambda d: {"changes": with_config(d, EVIL)}, "is not a class of segpipe's configuration"),
    "an interpolation": (
        lambda d: {"changes": with_config(d, "encoder:\n  weights: ${oc.env:HOME}\n")},
        "is an interpolation",
    ),
    "huge widths": (
        lambda d: {"changes": with_config(d, "encoder:\n  widths: [10000000]\n")},
        "at most 65,536",
    ),
    "no configuration": (lambda d: {"changes": {"config.yaml": b"[]"}}, "config.yaml is damaged"),
    "other weights": (lambda d: {"changes": weights_of(d, {"more": torch.ones(2)})}, "does not fit the network"),
    "weights that are no numbers": (
        lambda d: {"changes": weights_of(d, {first_tensor(d)[0]: first_tensor(d)[1] * float("nan")})},
        "not finite",
    ),
    "weights of another type": (
        lambda d: {"changes": weights_of(d, {"more": torch.zeros(2, dtype=torch.bool)})},
        "numbers of the type BOOL",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_shared_file_of_a_stranger_is_data(name, file, tmp_path):
    make, says = STRANGE[name]
    path = rewrite(file, tmp_path / "x.zip", **make(members(file)))
    with pytest.raises(UserError, match=says) as error:
        segpipe.load(path)
    assert "x.zip" in str(error.value)
    assert "segpipe-shared-" not in str(error.value)
    assert "To repair it" not in str(error.value)
    assert not list(tmp_path.parent.glob("evil"))


DAMAGED = {
    "a huge header": (lambda c: struct.pack("<Q", 2**60) + c[8:], "its header has"),
    "a lying length": (lambda c: c[:-7], "damaged|not a model"),
    "no metadata": (lambda c: header(c, __metadata__={}), "no metadata of the name segpipe"),
    "no configuration": (lambda c: metadata(c, config=""), "no configuration"),
    "no facts": (lambda c: metadata(c, segpipe="{}"), "metadata is damaged"),
    "a configuration that is none": (lambda c: metadata(c, config="a: *b"), "config.yaml is damaged"),
    "a class of its own": (
        lambda c: metadata(c, config=json.loads(c[8 : 8 + struct.unpack("<Q", c[:8])[0]])["__metadata__"]["config"]
                           .replace("segpipe.models.encoders.plain.PlainEncoder", "os.system")
                           .replace("segpipe.models.encoders.PlainEncoder", "os.system")),
        "is not a class of segpipe's configuration",
    ),
    "metadata that are no texts": (lambda c: header(c, __metadata__={"segpipe": 1}), "not texts"),
    "overlapping tensors": (
        lambda c: header(c, more={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}), "m.safetensors"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_safetensors_file_of_a_stranger_is_data(name, file, tmp_path):
    make, says = DAMAGED[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(make(members(file)["model.safetensors"]))
    with pytest.raises(UserError, match=says) as error:
        segpipe.load(path)
    assert "m.safetensors" in str(error.value)
    assert "segpipe-shared-" not in str(error.value)


def test_what_belongs_to_a_machine_is_left_out_of_texts():
    assert shared.without_machine({"classes": ["/road", "~/x"]}) == {"classes": ["/road", "~/x"]}
    cases = {
        "/home/a/b.pt": "b.pt", "~/x/y": "y", "C:\\a\\b.pth": "b.pth", "../x/y": "y", "imagenet": "imagenet",
        "hf/model": "hf/model", "see /a/b/c, then": "see c, then", "val/miou": "val/miou", "1/2": "1/2", "/": "path",
    }  # fmt: skip
    assert {text: shared.without_machine(text) for text in cases} == cases


def test_class_names_and_quoted_overrides():
    names = {"root": "images", "masks": "stages", "*": "ignored"}
    assert shared.without_machine({"merge": names, "lists": "mine/{split}.txt"}) == {"merge": names, "lists": None}
    cases = {
        "'/home/a b/c.pt'": "'c.pt'", '"~/x/y"': '"y"', "[/home/a/b.pt,2]": "[b.pt,2]", "'": "'", "": "",
        "imagenet": "imagenet", "C:\\a\\b.pth": "b.pth", "'a=b'": "'a=b'",
    }  # fmt: skip
    assert {value: shared.of_override(value) for value in cases} == cases


def test_a_command_that_takes_folders_says_how_to_get_one(file, tmp_path):
    with pytest.raises(UserError, match=r"one shared run, not a sweep\..* --restore \S+model\.zip"):
        archive.as_folder(file)
    with pytest.raises(UserError, match=r"not a run \(a file\)\. To write the folder .* --restore \S+model\.zip"):
        inspect([file], out=tmp_path)
