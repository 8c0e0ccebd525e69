"""``encoder.cache``: the features of a frozen encoder are read from disk, and nothing else changes."""

import json
import os
import time
from types import SimpleNamespace

import pytest
import torch
from support.configs import configure
from support.trainings import equal, weights
from torch import nn

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.data import cache
from segpipe.errors import UserError
from segpipe.train import train
from segpipe.training import feature_cache
from segpipe.training.feature_cache import FeatureCache, pack, read_batch

SMALL = [
    "data.dataset.train=8", "data.dataset.val=3", "data.dataset.test=3", "data.dataset.side=32", "data.crop=[32,32]",
    "data.batch_size=4", "data.eval_batch_size=3", "trainer=cpu", "trainer.max_epochs=2", "model=ladder",
    "model.stride=4", "model.width=8", "+trainer.enable_progress_bar=false", "logger=none",
]  # fmt: skip
VIT = [*SMALL, "encoder=vit", "encoder.backbone=test_vit", "encoder.pyramid_width=8", "encoder.freeze=1"]
PLAIN = [*SMALL, "encoder=small", "encoder.widths=[8,8,8,8,8]", "encoder.depths=[1,1,1,1,1]", "encoder.freeze=5"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def caches(monkeypatch):
    """The caches of the trainings of a test, which count images."""
    made = []
    monkeypatch.setattr(
        FeatureCache, "__init__", lambda self, *given, own=FeatureCache.__init__, **options: (
            made.append(self), own(self, *given, **options),
        )[0],
    )  # fmt: skip
    return made


def needs_timm(options):
    if "encoder=vit" in options:
        pytest.importorskip("timm", reason="timm is an extra")
    return options


def scores(metrics):
    return json.dumps({key: metrics[key] for key in ("best_epoch", "val", "test", "checkerboard")})  # NaN equals NaN


@pytest.mark.parametrize("options", [VIT, PLAIN], ids=["vit", "plain"])
def test_a_training_with_the_cache_is_the_same_to_the_digit(options, tmp_path, caches, capsys):
    needs_timm(options)
    found = []
    for name, cached in (("without", "false"), ("first", "true"), ("second", "true")):
        found.append(scores(train(configure(*options, f"encoder.cache={cached}", f"run_dir={tmp_path / name}"))))
        assert equal(weights(tmp_path / "without"), weights(tmp_path / name))
    assert found[0] == found[1] == found[2]
    first, second = caches
    assert first.computed > 0 == second.computed
    assert second.read == first.computed + first.read
    said = capsys.readouterr().out
    assert "the features of the frozen encoder take up to 0.00 GiB" in said
    assert "with 2 variants of each training image (HorizontalFlip)" in said


def test_another_decoder_reads_the_features_of_the_first(tmp_path, caches):
    needs_timm(VIT)
    for decoder in ("bilinear", "nearest"):
        train(configure(*VIT, f"decoder={decoder}", "encoder.cache=true", f"run_dir={tmp_path / decoder}"))
    first, second = caches
    assert first.computed > 0 == second.computed


def cached_network(*overrides, seed=0, **options):
    cfg = configure(*needs_timm(VIT), *overrides, f"seed={seed}")
    network = build.network(cfg, 3).eval()
    network.extractor = FeatureCache(network, config=build.as_dict(cfg.encoder), **options)
    return network


def images(number=2, side=32):
    return torch.randint(0, 256, (number, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_all_maps_of_a_convnext_are_kept():
    pytest.importorskip("timm", reason="timm is an extra")
    cfg = configure(*SMALL, "encoder=timm", "encoder.backbone=test_convnext", "encoder.freeze=1")
    network = build.network(cfg, 3).eval()
    expected = network(images())
    network.extractor = FeatureCache(network, config=build.as_dict(cfg.encoder))
    assert torch.equal(network(images()), expected)
    assert torch.equal(network(images()), expected)
    assert network.extractor.read == 2


def files_in(folder):
    return sorted(folder.rglob(f"*{feature_cache.SUFFIX}"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "garbage", "folder", "header"])
def test_a_damaged_file_is_computed_again(damage, folder):
    network = cached_network()
    with torch.no_grad():
        expected = network(images())
    path = files_in(folder)[0]
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        wrong = {
            "cut": content[:-4],
            "flipped": content[:-4] + bytes([content[-4] ^ 1]) + content[-3:],
            "empty": b"",
            "garbage": b"\xff" * 100,
            "header": content.replace(b'"crc"', b'"cre"'),
        }
        path.write_bytes(wrong[damage])
    again = cached_network()
    with torch.no_grad():
        assert torch.equal(again(images()), expected)
        assert again.extractor.computed == 2
        third = cached_network()
        assert torch.equal(third(images()), expected)
        assert third.extractor.read == (0 if damage == "folder" else 2)


def test_nothing_but_the_features_files_is_left(folder):
    with torch.no_grad():
        cached_network()(images())
    assert len(files_in(folder)) == 2 == sum(path.is_file() for path in folder.rglob("*"))


CHANGES = {
    "weights": lambda network: network.encoder.body.blocks[0].attn.qkv.weight.data.add_(1),
    "one weight in place": lambda network: nn.init.zeros_(network.encoder.body.pos_embed[0, 0, :1]),
    "normalisation": lambda network: network.normalise.mean.add_(1),
    "revision": lambda network: setattr(network.encoder, "revision", 7),
    "configuration": lambda network: network.extractor.config.update(backbone="other"),
    "stored type": lambda network: setattr(network.extractor, "dtype", torch.float16),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_what_changes_the_features_has_a_folder_of_its_own(change):
    network = cached_network()
    network(images())
    changed = cached_network()
    CHANGES[change](changed)
    changed(images())
    assert changed.extractor.computed == 2
    assert changed.extractor.folder != network.extractor.folder


@torch.no_grad()
def test_weights_that_change_under_way_are_noticed():
    network = cached_network()
    network(images())
    before = network.extractor.folder
    network.load_state_dict(cached_network(seed=1).state_dict())
    network(images())
    assert (network.extractor.folder != before, network.extractor.computed) == (True, 4)


@torch.no_grad()
def test_precision_has_a_folder_of_its_own():
    network = cached_network()
    network(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = network(images())
        assert network.extractor.computed == 4
        assert torch.equal(network(images()), first)
    assert network.extractor.read == 2


@pytest.mark.parametrize("other", [["encoder.weights=a.pth"], ["decoder=deconv"], ["encoder.freeze=2"]])
@torch.no_grad()
def test_what_does_not_change_the_features_reads_them(other):
    cached_network()(images())
    network = cached_network(*other)
    network(images())
    assert (network.extractor.read, network.extractor.computed) == (2, 0)


@torch.no_grad()
def test_an_image_is_known_by_its_values_and_the_batch_by_its_shape():
    network = cached_network()
    network(images())
    network(images().flip(0))  # another order
    assert network.extractor.read == 2
    network(images().contiguous(memory_format=torch.channels_last))
    assert network.extractor.read == 4
    for other in (images().flip(-1), images(3), images()[:1], images().float()):
        before = network.extractor.computed
        network(other)
        assert network.extractor.computed == before + len(other)


def test_with_a_gradient_of_the_image_nothing_is_kept(folder):
    network = cached_network()
    x = images().float().requires_grad_()
    network(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert files_in(folder) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_in_half_precision_what_is_computed_equals_what_is_read(dtype, folder):
    network = cached_network(dtype=dtype)
    computed, read = network(images()), network(images())
    assert torch.equal(computed, read)
    assert (network.extractor.computed, network.extractor.read) == (2, 2)
    exact = build.network(configure(*VIT), 3).eval()(images())
    assert not torch.equal(exact, read)
    torch.testing.assert_close(exact, read, atol=0.1, rtol=0.1)


@torch.no_grad()
def test_features_beyond_the_range_of_half_precision_are_an_error(folder):
    """The fault was: they became infinite, and the training ended with advice on the learning rate."""
    network = cached_network(dtype=torch.float16)
    network.encoder.extract = lambda x, extract=network.encoder.extract: {
        stride: 1e6 * one for stride, one in extract(x).items()
    }
    with pytest.raises(UserError, match=r"encoder\.cache=float16: the features of stride 16 reach .* ends at 65504"):
        network(images())
    assert files_in(folder) == []
    network.extractor.dtype = torch.bfloat16
    assert network(images()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_file_keeps_values_types_and_layout(dtype, layout, tmp_path):
    maps = {s: torch.randn(3, 5, 32 // s, 48 // s).to(dtype).contiguous(memory_format=layout) for s in (8, 16)}
    for stride, x in maps.items():
        paths = [tmp_path / f"{position}-{stride}" for position in range(3)]
        for position, path in enumerate(paths):
            path.write_bytes(pack(maps, stride, position, None))
        y, shapes = read_batch(paths)
        assert torch.equal(x, y)
        assert (x.dtype, x.stride()) == (y.dtype, y.stride())
        assert shapes == {8: [3, 5, 4, 6], 16: [3, 5, 2, 3]}


def test_files_of_other_shapes_or_types_are_no_batch(tmp_path):
    one = {8: torch.randn(1, 5, 4, 6)}
    (tmp_path / "one").write_bytes(pack(one, 8, 0, None))
    for other, dtype in (({8: one[8].transpose(2, 3)}, None), ({8: one[8].repeat(1, 1, 1, 2)}, torch.float16)):
        (tmp_path / "other").write_bytes(pack(other, 8, 0, dtype))
        assert read_batch([tmp_path / "one", tmp_path / "other"]) is None


def strides_in(folder):
    return sorted({int(path.stem.rsplit("-", 1)[1]) for path in files_in(folder)})


@torch.no_grad()
def test_only_the_strides_that_the_network_reads_are_kept(folder):
    def network(*overrides):
        cfg = configure(*PLAIN, *overrides, "seed=0")
        network = build.network(cfg, 3).eval()
        network.extractor = FeatureCache(network, config=build.as_dict(cfg.encoder))
        return network

    coarse = network("model.stride=8", "decoder=bilinear", "fusion=sum")
    expected = coarse(images())
    assert strides_in(folder) == [8, 16, 32] == coarse.extractor.strides
    assert torch.equal(coarse(images()), expected)
    assert (coarse.extractor.computed, coarse.extractor.read) == (2, 2)
    finer = network("model.stride=4", "decoder=bilinear", "fusion=concat")
    expected = finer(images())  # one map is not there: computed, and that map is written
    assert (finer.extractor.computed, strides_in(folder)) == (2, [4, 8, 16, 32])
    assert torch.equal(finer(images()), expected)
    assert (finer.extractor.computed, finer.extractor.read) == (2, 2)
    before = [path.stat().st_mtime_ns for path in files_in(folder)]
    coarse(images())
    assert (coarse.extractor.computed, before) == (2, [path.stat().st_mtime_ns for path in files_in(folder)])
    maps = coarse.extractor(images(), coarse.normalise(images()))
    assert list(maps) == [1, 2, 4, 8, 16, 32]
    assert [bool(one.isnan().all()) for one in maps.values()] == [True, True, True, False, False, False]
    expected = coarse.encoder(coarse.normalise(images()))
    assert [one.shape for one in maps.values()] == [one.shape for one in expected.values()]


def test_the_size_is_said_before_work(tmp_path, folder, monkeypatch):
    cfg = configure(*needs_timm(VIT), "encoder.cache=true", "augment=none", f"run_dir={tmp_path / 'run'}")
    plan, data = Plan.of(cfg), build.data(cfg)
    need = feature_cache.expected_bytes(plan.encoder, {16}, data, None)
    assert need == (8 + 3 + 3) * 4 * 64 * 2 * 2  # images, bytes of a number, channels, cells
    train(cfg)
    constant = 1  # the checkerboard's and the sheet's images may be beside those of the splits
    values = [len(path.read_bytes()) // 256 * 256 for path in files_in(folder)]
    assert sum(values) >= need
    assert len(values) - 14 <= constant
    half = feature_cache.expected_bytes(plan.encoder, {16}, data, torch.float16)
    assert half == need // 2
    monkeypatch.setattr(feature_cache.windows, "LIMIT", 1000)  # of pixels: larger images of val and test by windows
    assert feature_cache.expected_bytes(plan.encoder, {16}, data, None) == (8 + (3 + 3) * 2.25) * need / 14


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["encoder.freeze=0"], r"encoder.cache=true keeps .* encoder.freeze=0: set encoder.freeze=1, .*its backbone"),
        (["encoder=small", "encoder.freeze=4"], r"set encoder.freeze=5, which freezes all of it"),
        (["augment=strong"], r"augment=strong has RandomScale, Rotate, ColorJitter, GaussianBlur.*take augment=light"),
        (
            ["augment=none", "augment.after_crop=[{_target_:albumentations.OneOf,transforms:"
             "[{_target_:albumentations.HorizontalFlip},{_target_:albumentations.Blur}]}]"],
            r"augment=none has Blur",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_rejected_before_work(overrides, says):
    with pytest.raises(UserError, match=says):
        Plan.of(configure(*needs_timm([*SMALL, "encoder=vit", "encoder.freeze=1"]), *overrides, "encoder.cache=true"))


@pytest.mark.parametrize("allowed", ["HorizontalFlip", "VerticalFlip"])
def test_flips_are_allowed(allowed):
    flip = f"augment.after_crop=[{{_target_:albumentations.{allowed}}}]"
    plan = Plan.of(configure(*needs_timm(VIT), "augment=none", flip, "encoder.cache=true"))
    assert build.augment(plan.cfg).flips() == [allowed]


def test_the_value_is_checked():
    with pytest.raises(UserError, match=r"encoder.cache=float32: allowed is true or false or bfloat16 or float16"):
        Plan.of(configure(*needs_timm(VIT), "encoder.cache=float32"))


def attached(*overrides):
    cfg = configure(*needs_timm(VIT), "encoder.cache=true", *overrides)
    plan, data = Plan.of(cfg), build.data(cfg)
    return feature_cache.attach(build.network(cfg, 3), plan.encoder, build.as_dict(cfg.encoder), data)


@pytest.mark.parametrize("crop", ["[32,40]", "[40,32]", "[32,32]"])
def test_random_crops_are_rejected_before_work(crop):
    with pytest.raises(UserError, match=r"images of up to 40 x 40 .*cropped at random.*set data.crop=null, or"):
        attached(f"data.crop={crop}", "data.dataset.side=40")


@pytest.mark.parametrize("crop", ["[32,32]", "[40,64]", "null"])
def test_crops_that_take_the_whole_image_are_allowed(crop):
    assert "take up to" in attached(f"data.crop={crop}")


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("0.0000001", r"the features take up to 0.0 GiB, more than .* set SEGPIPE_FEATURES_GIB=1 in the environment"),
        ("much", "SEGPIPE_FEATURES_GIB=much: allowed is a number above 0, in GiB"),
        ("-1", "allowed is a number above 0"),
        ("nan", "allowed is a number above 0"),
        ("inf", "allowed is a number above 0"),
    ],
)
def test_the_limit_is_a_setting(limit, says, monkeypatch):
    monkeypatch.setenv(feature_cache.LIMIT, limit)
    with pytest.raises(UserError, match=says):
        attached()


def test_a_full_disk_is_said_before_work(monkeypatch):
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(UserError, match=r"has 0.0 GiB free: set SEGPIPE_CACHE=FOLDER"):
        attached()


def test_without_a_folder_to_write_the_training_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEGPIPE_CACHE", str(tmp_path / "file"))
    cfg = configure(*needs_timm(VIT), "encoder.cache=true", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
    assert train(cfg)["val"]["miou"] >= 0


def test_the_longest_unused_features_of_others_make_room(folder):
    now = time.time()
    for age, name in enumerate(["used", "old", "oldest"]):
        (folder / name).mkdir(parents=True)
        (folder / name / f"x{feature_cache.SUFFIX}").write_bytes(bytes(100))
        if name == "oldest":
            (folder / name / "notes.txt").write_text("not a file of features")
        os.utime(folder / name, (now - age, now - age))
    feature_cache.make_room(folder / "used", need=150, limit=250)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "notes.txt", f"x{feature_cache.SUFFIX}", f"x{feature_cache.SUFFIX}",
    ]  # fmt: skip
    assert (folder / "old").is_dir()
    feature_cache.make_room(folder / "used", need=200, limit=250)
    assert [path.name for path in folder.iterdir() if path.name != "oldest"] == ["used"]


def test_the_cache_is_no_part_of_the_identity():
    identities = {
        value: Plan.of(configure(*needs_timm(VIT), f"encoder.cache={value}")).identity
        for value in ("false", "true", "float16", "bfloat16")
    }
    assert identities["true"] == identities["false"]
    assert len({*identities.values()}) == 3


def test_the_folder_is_in_the_users_cache(folder):
    assert feature_cache.features_folder() == folder == cache.folder() / "features"


def test_the_results_name_nothing_of_the_cache(tmp_path):
    train(configure(*PLAIN, "encoder.cache=true", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"))
    assert str(tmp_path / "cache") not in json.dumps(json.loads((tmp_path / "run" / "run.json").read_text()))


@torch.no_grad()
def test_files_that_are_there_are_not_written_again(folder):
    network = cached_network()
    network(images())
    kept, lost = files_in(folder)
    lost.unlink()
    before = kept.stat().st_mtime_ns
    network(images())
    assert (network.extractor.computed, lost.is_file(), kept.stat().st_mtime_ns) == (4, True, before)
