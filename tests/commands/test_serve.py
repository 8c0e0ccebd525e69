"""examples/serve.py: a model behind HTTP, asked by FastAPI's own client."""

import importlib.util
import io

import numpy as np
import PIL.Image
import pytest
from support.paths import ROOT

import segpipe

pytest.importorskip("fastapi", reason="fastapi is a development tool of the example")
pytest.importorskip("httpx", reason="httpx is a development tool of the example")
pytest.importorskip("multipart", reason="python-multipart is a development tool of the example")
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def served(finished_run, monkeypatch):
    from fastapi.testclient import TestClient

    monkeypatch.setenv("SEGPIPE_MODEL", str(finished_run))
    spec = importlib.util.spec_from_file_location("serve", ROOT / "examples" / "serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, TestClient(module.app)


def png():
    file = io.BytesIO()
    PIL.Image.fromarray(RGB).save(file, "PNG")
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore:.*httpx.*")
def test_an_image_is_answered_and_what_is_none_is_an_error_of_the_caller(served, finished_run, monkeypatch):
    module, client = served
    expected = segpipe.load(finished_run, device="cpu")(RGB)
    answer = client.post("/mask", files={"image": ("a.png", png())})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert (np.array(PIL.Image.open(io.BytesIO(answer.content))) == expected).all()
    shares = client.post("/shares", files={"image": ("a.png", png())}).json()
    assert shares == {name: (expected == index).mean() for index, name in enumerate(module.model.classes)}
    for content in (b"not an image", b"", png()[:100]):
        answer = client.post("/mask", files={"image": ("a.png", content)})
        assert answer.status_code == 422
        assert "image" in str(answer.json()["detail"])
    assert client.post("/mask").status_code == 422
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    answer = client.post("/mask", files={"image": ("a.png", png())})
    assert (answer.status_code, answer.json()["detail"][:8]) == (413, "The file")
