"""The notebook runs from top to bottom in an empty folder, and shows what it says it shows."""

import json
import re

import numpy as np
import pytest
from support.paths import ROOT

NOTEBOOK = ROOT / "examples" / "run.ipynb"


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_kept_without_outputs(cells):
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    assert content["metadata"]["language_info"] == {"name": "python"}  # no version or path of whoever ran it
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


def test_the_notebook_runs(cells, tmp_path, monkeypatch, capsys):
    """Without Jupyter: its cells, one after another, in one namespace; figures are drawn, but not shown."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}[{cell['id']}]", "exec"), namespace)
    figures = namespace["plt"].get_fignums()
    namespace["plt"].close("all")
    assert len(figures) == 2
    width, height = namespace["image"].size
    assert namespace["mask"].shape == (height, width)
    assert namespace["total"] == pytest.approx(namespace["metrics"]["test"]["miou"], rel=1e-12)
    differences, estimate = namespace["differences"], namespace["estimate"]
    assert estimate.seeds == (0, 1, 2, 3, 4)
    assert differences.mean() == pytest.approx(100 * estimate.difference, rel=1e-9)
    assert estimate.trainings.low < estimate.difference < estimate.trainings.high
    assert np.std(differences) > 0
    assert re.search(r"new images too: \d\.\d\d to \d\.\d\d points", capsys.readouterr().out)
