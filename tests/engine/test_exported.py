"""Exported files that come from a stranger: what they could do is refused in a sentence, before any of it is done."""

import json
import os
import random
import sys
import zipfile

import numpy as np
import pytest
import torch

import segpipe
from segpipe.engine import exported
from segpipe.engine.exported import Facts
from segpipe.errors import UserError

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
FACTS = {
    "format": "segpipe model", "version": 1, "segpipe": "0", "classes": ["a", "b"], "palette": [[0, 0, 0], [9, 9, 9]],
}  # fmt: skip


def model(*, nodes=None, initial=(), facts=FACTS, channels=3, kind=onnx.TensorProto.UINT8, out=2):
    """A tiny ONNX model: the sums of two pairs of channels."""
    make = onnx.helper
    weights = onnx.numpy_helper.from_array(np.ones((2, channels, 1, 1), np.float32), "w")
    nodes = nodes or [
        make.make_node("Cast", ["image"], ["x"], to=onnx.TensorProto.FLOAT),
        make.make_node("Conv", ["x", "w"], ["logits"]),
    ]
    graph = make.make_graph(
        nodes,
        "g",
        [make.make_tensor_value_info("image", kind, ["n", channels, "h", "w"])],
        [make.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", out, "h", "w"])],
        [weights, *initial],
    )
    made = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    if facts is not None:
        entry = made.metadata_props.add()
        entry.key, entry.value = "segpipe", facts if isinstance(facts, str) else json.dumps(facts)
    return made


def saved(made, folder):
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def external(tensor_name="e"):
    tensor = onnx.TensorProto(name=tensor_name, data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    return tensor


def hidden_external():
    """External data whose location flag says that they are inside."""
    tensor = external()
    tensor.data_location = onnx.TensorProto.DEFAULT
    return tensor


def constant(tensor):
    node = onnx.helper.make_node("Constant", [], ["c"])
    attribute = node.attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(tensor)
    return [*model().graph.node, node]


def branch(kind):
    body = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "b", [], [])
    node = onnx.helper.make_node(kind, ["w"], ["y"], body=body)
    return [*model().graph.node, node]


def with_functions():
    made = model()
    made.functions.add().name = "f"
    return made


STRANGE = {
    "external weights": (lambda: model(initial=[external()]), "external data"),
    "hidden external weights": (lambda: model(initial=[hidden_external()]), "external data"),
    "an external constant": (lambda: model(nodes=constant(external())), "external data"),
    "a loop": (lambda: model(nodes=branch("Loop")), "Loop, which segpipe does not write"),
    "a scan": (lambda: model(nodes=branch("Scan")), "Scan, which segpipe does not write"),
    "a graph in another operator": (lambda: model(nodes=branch("Elu")), "a graph inside an operator"),
    "a plugin": (
        lambda: model(nodes=[onnx.helper.make_node("Run", ["image"], ["logits"], domain="evil")]),
        "evil.Run, which segpipe does not write",
    ),
    "functions": (with_functions, "functions, which segpipe does not write"),
    "no metadata": (lambda: model(facts=None), "no metadata"),
    "no JSON": (lambda: model(facts="["), "its metadata is damaged"),
    "deep JSON": (lambda: model(facts="[" * 5000), "its metadata is damaged"),
    "another version": (lambda: model(facts=FACTS | {"version": 2}), "version"),
    "no classes": (lambda: model(facts=FACTS | {"classes": []}), "classes"),
    "too many classes": (lambda: model(facts=FACTS | {"classes": ["a"] * 300}), "classes"),
    "a palette of another length": (lambda: model(facts=FACTS | {"palette": []}), "palette and classes"),
    "a colour that is none": (lambda: model(facts=FACTS | {"palette": [[0, 0, 0], [0, 0, 999]]}), "palette"),
    "control characters": (lambda: model(facts=FACTS | {"classes": ["\x1b[2J", "b"]}), "control characters"),
    "a huge size": (lambda: model(facts=FACTS | {"size": [60_000, 60_000]}), "pixels"),
    "a size that is none": (lambda: model(facts=FACTS | {"size": [0, 7]}), "size"),
    "another number of channels": (lambda: model(channels=4), "images of 3 channels"),
    "another type": (lambda: model(kind=onnx.TensorProto.FLOAT), "(?i)does not take one image|damaged"),
    "an unknown operator": (
        lambda: model(nodes=[onnx.helper.make_node("Nonsense", ["image"], ["logits"])]),
        "not a model that segpipe.export has written",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_an_onnx_file_of_a_stranger_is_data(name, tmp_path, capfd):
    made, says = STRANGE[name]
    path = saved(made(), tmp_path)
    with pytest.raises(UserError, match=says) as error:
        segpipe.load(path)
    assert "m.onnx" in str(error.value)
    assert "passwd" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_good_file_is_read_and_a_wrong_result_is_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    assert segpipe.load(saved(model(), tmp_path))(image).shape == (4, 5)
    with pytest.raises(UserError, match=r"needed are scores of \(1, 3, 4, 5\)"):
        segpipe.load(saved(model(facts=FACTS | {"classes": list("abc"), "palette": [[0, 0, 0]] * 3}), tmp_path))(image)
    shrunk = [
        onnx.helper.make_node("Cast", ["image"], ["x"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Conv", ["x", "w"], ["logits"], strides=[2, 2]),
    ]
    with pytest.raises(UserError, match="no model that segpipe has written"):
        segpipe.load(saved(model(nodes=shrunk), tmp_path))(image)


@pytest.mark.parametrize("content", [b"", b"onnx", b"\x08\x09" * 50, bytes(1000)])
@pytest.mark.parametrize("name", ["m.onnx", "m.safetensors", "m.zip"])
def test_another_file_is_refused(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: "):
        segpipe.load(tmp_path / name)


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2", "m.safetensors", "m.zip"])
def test_a_missing_file_and_a_pipe_are_refused(name, tmp_path):
    trust = ["torch"]
    with pytest.raises(UserError, match="no such file"):
        segpipe.load(tmp_path / name, trust=trust)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="a named pipe"):
        segpipe.load(tmp_path / name, trust=trust)


def test_a_program_of_torch_needs_trust(tmp_path):
    """It is not even opened: reading it can execute code."""

    class Planting:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'planted'}",)

    path = tmp_path / "m.pt2"
    torch.save(Planting(), path)
    for trust in ((), ("mypackage",)):
        with pytest.raises(UserError, match=r"can execute code.*--trust torch"):
            segpipe.load(path, trust=trust)
    assert not (tmp_path / "planted").exists()
    with zipfile.ZipFile(tmp_path / "n.pt2", "w") as file:
        file.writestr("x", "y")
    with pytest.raises(UserError, match="not a model that segpipe"):
        segpipe.load(tmp_path / "n.pt2", trust=["torch"])


def test_a_missing_library_is_one_line(tmp_path, monkeypatch):
    path = saved(model(), tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'segpipe\[export\]'"):
        segpipe.load(path)


def test_a_gpu_that_onnxruntime_lacks_is_said(tmp_path, monkeypatch):
    import onnxruntime

    path = saved(model(), tmp_path)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match="pip install onnxruntime-gpu"):
        exported.open_program(path, device=torch.device("cuda"))


def test_damaged_bytes_are_refused_or_computed(tmp_path):
    """Fifty seeded mutations: refused in a sentence, or a mask of the right size."""
    good = model().SerializeToString()
    image = np.zeros((3, 4, 3), np.uint8)
    refused = 0
    for seed in range(50):
        draw = random.Random(seed)
        content = bytearray(good)
        for _ in range(draw.choice((1, 3))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        if seed % 10 == 0:
            del content[draw.randrange(len(content)) :]
        (tmp_path / "m.onnx").write_bytes(content)
        try:
            assert segpipe.load(tmp_path / "m.onnx")(image).shape == (3, 4)
        except UserError:
            refused += 1
    assert refused > 10


def test_facts_are_written_as_they_are_read():
    facts = Facts(segpipe="1", classes=["नमस्ते"], palette=[[1, 2, 3]], size=[4, 5])
    assert Facts.from_text(facts.text()) == facts


def test_what_needs_a_run_refuses_a_file(tmp_path):
    from segpipe.evaluate import evaluate

    path = saved(model(), tmp_path)
    with pytest.raises(UserError, match=r"an exported file\. Give the folder of its run"):
        evaluate(path, overrides=[], split="test", device="cpu")
