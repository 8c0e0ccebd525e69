"""What docs/results.md says of the CamVid study, and the table of README.md, are computed from archives."""

import json

import numpy as np
import pytest
from support.factor_sweeps import write_cell_run, write_factors
from support.fake_runs import write_sweep
from support.paths import ROOT
from support.sweep_scripts import script

from segpipe.analysis.tuned import Tuned, TunedCell
from segpipe.runs import archive

RATES = (0.001, 0.003, 0.01)
DECODERS = {"bilinear": 0.50, "deconv": 0.54, "nearest": 0.45}
BEST = {"bilinear": 0.003, "deconv": 0.003, "nearest": 0.001}  # learning rate
DESIGN = {"decoder": [*DECODERS], "fusion": ["none", "sum", "concat"], "optimizer.lr": [*RATES]}
GIVEN = {"stride": 4, "classes": ["sky", "pole"]}


def score(levels):
    loss = 0.03 * (levels["optimizer.lr"] != BEST[levels["decoder"]])
    return DECODERS[levels["decoder"]] - 0.1 * (levels["fusion"] == "none") - loss


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A sweep that was tuned on two seeds and judged on four, and one on drawn scenes where `nearest` is the best."""
    folder = tmp_path_factory.mktemp("kept")
    sweep = write_factors(
        folder / "a" / "sweep_camvid", DESIGN, score, seeds=(100, 101), tuning_seeds=[100, 101], **GIVEN
    )
    record, random = json.loads((sweep / "sweep.json").read_text()), np.random.default_rng(1)
    for decoder in DECODERS:
        for fusion in DESIGN["fusion"]:
            levels = {"decoder": decoder, "fusion": fusion, "optimizer.lr": BEST[decoder]}
            for seed in range(4):
                run = sweep / f"{decoder}-{fusion}-{seed}"
                miou = score(levels) + 0.003 * float(random.standard_normal())
                record["cells"].append(write_cell_run(run, levels, seed=seed, miou=miou, **GIVEN))
    (sweep / "sweep.json").write_text(json.dumps(record))
    archive.write(sweep, folder / "sweep_camvid.zip")
    drawn = {"bilinear": 0.60, "deconv": 0.65, "nearest": 0.70}
    scores = {(name, fusion, 4): value for name, value in drawn.items() for fusion in ("none", "sum", "concat")}
    archive.write(write_sweep(folder / "a" / "sweep_ladder", scores, seeds=4, noise=0.003), folder / "sweep_ladder.zip")
    return folder


@pytest.mark.slow
def test_the_page_is_that_of_the_archive():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert script("camvid.py")["written"](page) == page, "run: python docs/sweeps/camvid.py"


def test_without_the_archive_the_study_is_open(tmp_path):
    for name in script("camvid.py")["STUDIES"]:
        assert script("camvid.py")["section"](name, tmp_path) == f"Open: `{name}` is not finished.\n"


def test_the_section_says_what_the_runs_say(kept):
    text = script("camvid.py")["section"]("sweep_camvid", kept)
    assert "36 runs of 9 networks, 4 seeds." in text
    verdict = next(line for line in text.splitlines() if line.startswith("**Verdict.**"))
    for pair in ("`deconv` over `bilinear` by 3.9", "`bilinear` over `nearest` by 5", "`sum` over `none` by 1"):
        assert pair in verdict
    assert "`sum` over `concat`" not in verdict
    assert "`concat` over `sum`" not in verdict
    assert "the sign is the opposite for `deconv` over `nearest` and `bilinear` over `nearest`" in text
    rows = {line.split(" | ")[0]: line.split(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert rows["| `bilinear` over `nearest`"][1].startswith("**5")
    assert rows["| `bilinear` over `nearest`"][3].startswith("**\N{MINUS SIGN}10")
    assert "**Does it depend on the skips?** Of 9 interactions of operator and fusion, none is significant.\n" in text


def test_the_learning_rates_are_those_of_validation(kept):
    text = script("camvid.py")["section"]("sweep_camvid", kept)
    assert "Of 9 cells, validation chose 0.001 for 3 and 0.003 for 6." in text
    assert "a common rate (0.003) loses 1.0 points of validation mIoU against the rate of each cell" in text
    lines = [line for line in text.splitlines() if line.count("**") == 2 and "%" not in line and line[0] == "|"]
    chosen = [line.split(" | ")[1:4] for line in lines if line.split(" | ")[0].startswith("| ") and "over" not in line]
    assert [["**" in value for value in row].index(True) for row in chosen] == [1, 1, 1, 1, 1, 1, 0, 0, 0]


def test_classes_are_means_over_cells_with_skips(kept):
    text = script("camvid.py")["section"]("sweep_camvid", kept)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| sky", "| pole"))]
    assert len(rows) == 2
    for row in rows:
        values = [float(value.rstrip(" |")) for value in row[2:]]
        np.testing.assert_allclose(values, [50, 54, 45, 39.7, 49.7, 49.7], atol=0.4)


def test_one_fusion_is_no_factor_and_the_drawn_scenes_are_those_of_the_same_stride(tmp_path):
    """On drawn scenes `deconv` is the better one at stride 4, and the worse one in the mean over both strides."""
    design = {"decoder": ["bilinear", "deconv"], "optimizer.lr": [0.001, 0.003]}
    sweep = write_factors(
        tmp_path / "sweep_operators_camvid",
        design,
        lambda levels: 0.6 - 100 * levels["optimizer.lr"],
        seeds=(100, 101),
        tuning_seeds=[100, 101],
        **GIVEN,
    )
    record, random = json.loads((sweep / "sweep.json").read_text()), np.random.default_rng(1)
    for decoder in design["decoder"]:
        for seed in range(4):
            levels = {"decoder": decoder, "optimizer.lr": 0.001}
            miou = 0.5 + 0.05 * (decoder == "deconv") + 0.003 * float(random.standard_normal())
            record["cells"].append(write_cell_run(sweep / f"{decoder}-{seed}", levels, seed=seed, miou=miou, **GIVEN))
    (sweep / "sweep.json").write_text(json.dumps(record))
    archive.write(sweep, tmp_path / "sweep_operators_camvid.zip")
    scores = {
        (name, fusion, stride): 0.6 + gain * (name == "deconv")
        for name in design["decoder"]
        for fusion in ("sum", "concat")
        for stride, gain in ((4, 0.05), (8, -0.2))
    }
    archive.write(write_sweep(tmp_path / "a", scores, seeds=4, noise=0.003), tmp_path / "sweep_operators.zip")
    text = script("camvid.py")["section"]("sweep_operators_camvid", tmp_path)
    assert "Of this 1 difference, 1 is significant on drawn scenes (`sweep_operators`, stride 4); 1 of them is" in text
    assert "the sign is the opposite" not in text
    assert "| test mIoU | sum |\n" in text
    assert "for the operators, over `sum`.\n" in text


def test_an_interaction_is_said_in_the_direction_in_which_it_is_positive(tmp_path):
    """`deconv` gains 10 points with sums and nothing with concatenation."""
    scores = {(name, how, 4): 0.5 for name in ("bilinear", "deconv") for how in ("sum", "concat")}
    scores["deconv", "sum", 4] = 0.6
    archive.write(write_sweep(tmp_path / "x", scores, seeds=4, noise=0.003), tmp_path / "x.zip")
    made = script("camvid.py")
    text = made["dependence"](made["read"]("x", tmp_path))
    assert "Of 1 interaction of operator and fusion, 1 is significant. The largest: `" in text
    assert "`bilinear` minus `deconv` is 10." in text or "`bilinear` minus `deconv` is 9." in text
    assert "points higher with `concat` than with `sum`" in text


def test_a_common_learning_rate_is_not_said_to_lose_what_noise_gives():
    """All rates are equal but for noise: the loss, measured on a seed that did not choose, is zero in the mean."""
    made = script("camvid.py")
    random, seeds, levels = np.random.default_rng(0), (100, 101), [(0.001,), (0.003,), (0.01,)]
    losses = []
    for _ in range(200):
        cells = [
            TunedCell(
                "x", None, {one: dict(zip(seeds, random.standard_normal(2), strict=True)) for one in levels}, {}, False
            )
            for _ in range(15)
        ]
        losses.append(made["cost_of_one_rate"](Tuned([], [], [*seeds], levels), cells)[1].mean())
    assert abs(np.mean(losses)) < 3 * np.std(losses) / len(losses) ** 0.5


@pytest.mark.slow
def test_the_table_of_the_readme_is_that_of_the_archives():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script("readme.py")["written"](page) == page, "run: python docs/sweeps/readme.py"


def test_the_readme_has_a_column_for_each_kept_sweep(kept, monkeypatch):
    made = script("readme.py")
    rows = {("bilinear", "nearest"): "bilinear over nearest neighbour", ("concat", "sum"): "concatenated over summed"}
    monkeypatch.setitem(made["section"].__globals__, "ROWS", rows)
    lines = made["section"](kept).splitlines()
    assert lines[0].endswith("from 36 trainings on drawn scenes and 36 trainings on CamVid with 4 seeds per network:")
    assert lines[2].count(" | ") == 3  # there is no sweep_shapes
    assert lines[4].startswith("| bilinear over nearest neighbour | \N{MINUS SIGN}10.0 (")
    assert lines[4].split(" | ")[2].startswith("\N{MINUS SIGN}10.0 (")
    assert lines[4].split(" | ")[3].startswith("5.1 (")
    assert lines[5].count("not significant") == 3


def test_the_figure_has_one_row_for_each_pair_of_levels(kept, tmp_path):
    """The two sweeps list their levels in different orders."""
    made = script("verdict.py")
    tuned = {"sweep_camvid": ["optimizer.lr"], "sweep_ladder": []}
    rows = [{*made["differences"](made["read"](name, kept, tuned=keys), name)} for name, keys in tuned.items()]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 6
    made["main"](kept, tmp_path / "verdict.png")
    assert (tmp_path / "verdict.png").stat().st_size > 10_000
