"""Exported programs: the logits of every operator and fusion under conf, for all sizes, and what the file says."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.configs import configure
from support.grid import grid
from support.tiny_networks import build_tiny

import segpipe
from segpipe import export as command
from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.schema import CONF, options
from segpipe.engine import export
from segpipe.engine.exported import Facts, open_program
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError
from segpipe.models.upsample import Bilinear
from segpipe.models.windows import Windows

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
CPU = torch.device("cpu")
SIZES = [(1, 1, 1), (1, 5, 7), (2, 32, 64), (1, 77, 40), (3, 33, 65)]  # of batches


def facts(network, **given):
    encoder = network.encoder
    return Facts(
        segpipe="0", classes=["a", "b", "c"], palette=[[0, 0, 0]] * 3, min_size=encoder.min_size,
        stride=encoder.coarsest, **given,
    )  # fmt: skip


def small_network(decoder, fusion):
    """A network with one step of a decoder, up to full size. No parameter of it is zero everywhere."""
    cfg = configure("model=unet", "encoder=small", "encoder.widths=[8]", "encoder.depths=[1]")
    for group, name in (("decoder", decoder), ("fusion", fusion)):
        cfg[group] = OmegaConf.load(CONF / group / f"{name}.yaml")
    if cfg.decoder.get("kernel") == 5:
        cfg.decoder.kernel = 3  # the program has fewer operations
    torch.manual_seed(0)
    return awake(build.network(Plan.of(cfg).cfg, 3))


def awake(network):
    """Draw the parameters that start at zero: they would hide what hangs on them."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def written(network, path, form="onnx"):
    """The network of the file that the export of a network gives."""
    about = facts(network)
    program = export.record(network, about)
    (export.write_onnx if form == "onnx" else export.write_torch)(program, about, path)
    return open_program(path, device=CPU, trust=["torch"], form=form).network


def agree(network, other, sizes=SIZES):
    whole = export.ExportedNetwork(network).eval()
    for count, height, width in sizes:
        draw = torch.Generator().manual_seed(height)
        image = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=draw)
        with torch.inference_mode():
            small = min(height, width) < network.encoder.min_size  # which ``Network`` refuses
            expected, found = (whole if small else network)(image), other(image)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
        assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.999


QUICK = [("unpool", "attention_gate")]


@pytest.mark.parametrize(("decoder", "fusion"), grid(options("decoder"), options("fusion"), quick=QUICK))
def test_every_operator_and_fusion_is_the_same_in_onnxruntime(decoder, fusion, tmp_path):
    network = small_network(decoder, fusion)
    agree(network, written(network, tmp_path / "m.onnx"))


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_a_large_image_by_windows_is_that_of_the_run(form, tmp_path):
    """How far pixels act cannot be measured in a program of integers: the whole overlap has to be taken."""
    network = small_network("deconv", "concat")
    other = written(network, tmp_path / "m", form)
    image = torch.randint(0, 256, (1, 3, 70, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = {"stride": 2, "limit": 1000, "side": 64, "overlap": 32}
    run, program = (Windows(one, **given) for one in (network, other))
    assert run.layout(image) == (16, 8)
    assert program.layout(image) == (32, 0)
    assert (run.masks(image, (70, 120)) == program.masks(image, (70, 120))).float().mean() > 0.999
    with pytest.raises(UserError, match="not finite"):
        other(torch.full((1, 3, 8, 8), torch.nan))


@pytest.mark.slow
@pytest.mark.parametrize("decoder", options("decoder"))
def test_every_operator_is_the_same_as_a_program_of_torch(decoder, tmp_path):
    network = small_network(decoder, "sum")
    agree(network, written(network, tmp_path / "m.pt2", "torch_export"))


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["alexnet", "basic", "resnet18", "resnet50", "unet", "vgg11", "timm"])
def test_every_kind_of_encoder_is_exported(encoder, tmp_path):
    if encoder == "timm":
        pytest.importorskip("timm", reason="timm is an extra")
    network = awake(build_tiny("fcn8s", encoder=encoder, decoder="bilinear"))
    sizes = [size for size in SIZES if encoder != "alexnet" or min(size[1:]) < 63] + [(1, 130, 99)]
    other = written(network, tmp_path / "m.onnx")
    agree(network, other, [size for size in sizes if min(size[1:]) >= other.encoder.min_size] + sizes[-1:])


@pytest.mark.slow
@pytest.mark.parametrize("model", options("model"))
def test_every_model_is_exported(model, tmp_path):
    network = awake(build_tiny(model))
    agree(network, written(network, tmp_path / "m.onnx"))


@pytest.mark.slow
def test_local_contrast_and_other_parts_are_exported(tmp_path):
    cfg = configure("model=unet", "encoder.widths=[8,8]", "encoder.depths=[1,1]", "fusion.attention=scse")
    cfg.augment.local_contrast = True
    network = awake(build.network(cfg, 3))
    agree(network, written(network, tmp_path / "m.onnx"), [(1, 5, 7), (2, 33, 65)])


@pytest.fixture(scope="session")
def onnx_file(finished_run, tmp_path_factory):
    return export.export(finished_run, form="onnx", out=tmp_path_factory.mktemp("onnx") / "m.onnx", report=list)[0]


def test_an_onnx_file_says_what_it_is_and_any_reader_can_use_it(finished_run, onnx_file):
    session = runtime.InferenceSession(str(onnx_file))
    said = json.loads(session.get_modelmeta().custom_metadata_map["segpipe"])
    record = json.loads((finished_run / "run.json").read_text())
    assert {key: said[key] for key in ("classes", "palette", "identity", "name")} == {
        key: record[key] for key in ("classes", "palette", "identity", "name")
    }
    assert (said["size"], said["bands"], said["input"], said["segpipe"]) == (None, None, "uint8", segpipe.__version__)
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("image", "tensor(uint8)", ["batch", 3, "height", "width"])
    assert (made.name, made.shape) == ("logits", ["batch", 6, "height", "width"])
    content = onnx_file.read_bytes()
    assert b".py" not in content  # of the code that made the operations
    assert str(finished_run).encode() not in content


def test_a_file_predicts_as_its_run(finished_run, onnx_file, tmp_path):
    run, file = segpipe.load(finished_run, device="cpu"), segpipe.load(onnx_file)
    for size in ((45, 61), (7, 9), (64, 96)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        assert (run(image) == file(image)).mean() > 0.999
        np.testing.assert_allclose(run.probabilities(image), file.probabilities(image), atol=1e-5)
    assert (run.classes, run.palette, run.size) == (file.classes, file.palette, file.size)


def test_a_float_image_may_be_asked_for(tmp_path):
    network = small_network("bilinear", "none")
    about = facts(network, input="float32")
    export.write_torch(export.record(network, about), about, tmp_path / "m.pt2")
    image = torch.randint(0, 256, (1, 3, 20, 30)).float()
    program = torch.export.load(tmp_path / "m.pt2")
    torch.testing.assert_close(program.module()(image), network(image))


def test_the_command_prints_parity_size_and_what_to_do_next(finished_run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "m.safetensors"
    words = ["export", str(finished_run), "--format", "safetensors", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    command.main()
    printed = capsys.readouterr().out
    assert "Parity: largest difference of logits 0 " in printed
    assert "equal classes at 100.0000%" in printed
    assert f"{out}: 0.1 MB" in printed
    assert "segpipe.predict" in printed


class Foreign(Bilinear):
    """An operator whose operation no ONNX exporter knows."""

    def forward(self, x, source):
        return torch.ops.segpipe_tests.twice(super().forward(x, source))


@torch.library.custom_op("segpipe_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@twice.register_fake
def twice_shape(x):
    return torch.empty_like(x)


class Deciding(Bilinear):
    """An operator that decides by values, which no program of one path can."""

    def forward(self, x, source):
        return super().forward(x if x.sum() > 0 else -x, source)


@pytest.mark.parametrize(
    ("kind", "says"),
    [(Foreign, r"no ONNX form \(segpipe_tests.twice.default\)"), (Deciding, "cannot be recorded as a program")],
)
def test_what_cannot_be_exported_is_said_and_nothing_is_written(kind, says, tmp_path):
    network = small_network("bilinear", "none")
    for step in network.decoder.steps.values():
        step.upsample.__class__ = kind
    with pytest.raises(UserError, match=says):
        written(network, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_kept(finished_run, tmp_path, monkeypatch):
    save = export.shared.write_safetensors

    def spoil(predictor, about, path):
        with torch.no_grad():
            kept = {name: value.clone() for name, value in predictor.network.state_dict().items()}
            for value in predictor.network.parameters():
                value.mul_(3)
            save(predictor, about, path)
            predictor.network.load_state_dict(kept)

    monkeypatch.setattr(export.shared, "write_safetensors", spoil)
    with pytest.raises(UserError, match="does not compute what the run does"):
        export.export(finished_run, form="safetensors", out=tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"form": "onnx", "out": "."}, "this is a folder"),
        ({"form": "onnx", "out": "m.pt2"}, "has to end with .onnx"),
        ({"form": "tflite"}, "allowed is onnx, torch_export, safetensors"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_before_work(options, says, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = options | ({"out": tmp_path / options["out"]} if "out" in options else {})
    with pytest.raises(UserError, match=says):
        export.export(finished_run, **given)


def test_the_name_of_a_run_leads_to_no_other_folder(finished_run, tmp_path, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "a" / "run")
    record = json.loads((tmp_path / "a" / "run" / "run.json").read_text())
    (tmp_path / "a" / "run" / "run.json").write_text(json.dumps(record | {"name": "../../evil"}))
    monkeypatch.chdir(tmp_path / "a")
    assert str(export.export(tmp_path / "a" / "run", form="safetensors")[0]) == "model.safetensors"


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_one_line(library, finished_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"{library}: pip install 'segpipe\[export\]'"):
        export.export(finished_run, form="onnx", out=tmp_path / "m.onnx")


def test_an_exported_file_is_not_exported_again(onnx_file, tmp_path):
    with pytest.raises(UserError, match=r"an exported file\. Give the folder of the run"):
        export.export(onnx_file, form="safetensors", out=tmp_path / "m.safetensors")
    assert isinstance(Predictor(onnx_file).network, torch.nn.Module)
