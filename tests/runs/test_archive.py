"""The archive of a sweep: the same report as from the folder, and nothing that a stranger's archive could do."""

import json
import os
import random
import stat
import struct
import zipfile
from io import BytesIO
from pathlib import Path

import PIL.Image
import pytest
import yaml
from support.fake_runs import write_run

from segpipe.analysis.collect import collect
from segpipe.errors import UserError
from segpipe.report import report
from segpipe.runs import archive, cells
from segpipe.runs.cells import Cell
from segpipe.runs.storage import read_json, write_json, write_text


@pytest.fixture
def sweep(tmp_path):
    """Eight runs of a sweep, one of which failed, with examples, a folder that is no run, and further files."""
    folder = tmp_path / "sweeps" / "named"
    for seed in (0, 1, 2, 3):
        for decoder in ("nearest", "deconv"):
            name = f"ladder8-{decoder}-s{seed}"
            write_run(folder / name, decoder=decoder, seed=seed, miou=0.4 + 0.01 * seed, boundaries=True)
            choices = {"model": "ladder", "stride": 8, "decoder": decoder, "fusion": "sum", "match": None, "seed": seed}
            overrides = [f"seed={seed}", f"decoder={decoder}", "data.root=/home/me/photos"]
            cells.add(folder, Cell(overrides, choices, run=name), options=["--config-dir=/home/me/conf"])
    images = folder / "ladder8-deconv-s0" / "pictures" / "examples"
    images.mkdir(parents=True)
    for name in ("a.jpg", "a.png", "a.truth.png"):
        PIL.Image.new("RGB", (8, 8), "red").save(images / name)
    record = read_json(folder / "ladder8-deconv-s3" / "run.json")
    error = "the loss became nan in /home/me"
    write_json(
        folder / "ladder8-deconv-s3" / "run.json",
        record | {"status": "failed", "error": error, "host": "cluster7", "pid": 77},
    )
    record = read_json(folder / "ladder8-nearest-s0" / "run.json")
    given = {"overrides": ["sweep.cells='/home/me/my x.cells'", "run_dir=/home/me/x"]}
    write_json(folder / "ladder8-nearest-s0" / "run.json", record | given)
    (folder / "a folder").mkdir()
    write_text(folder / "ladder8-deconv-s0" / "output.log", "from /home/me")
    write_text(folder / "ladder8-deconv-s0" / "config.yaml", text_with_paths(folder / "ladder8-deconv-s0"))
    write_text(folder / "tuned.cells", TUNED)
    return folder


TUNED = """# Chosen by `python -m segpipe.tune /home/me/sweeps/named optimizer.lr` on 2026-11-25 10:00: it's \\\\
# python -m segpipe.train -m --config-dir=/home/me/conf 'hydra.searchpath=[file:///home/me/a b,pkg://x/y]' "sweep.cells='/home/me/my sweeps/tuned.cells'" seed=0,1
decoder=deconv data.root=/home/me/photos optimizer.lr=0.001
decoder=unpool "data.root='/home/me/my photos/'" optimizer.lr=0.01  # /home/me/why
"""  # noqa: E501
TUNED_ELSEWHERE = """# Chosen by `python -m segpipe.tune named optimizer.lr` on 2026-11-25 10:00: it's \\\\
# python -m segpipe.train -m --config-dir=conf 'hydra.searchpath=[file://a b,pkg://x/y]' "sweep.cells='tuned.cells'" seed=0,1
decoder=deconv data.root=photos optimizer.lr=0.001
decoder=unpool "data.root='my photos/'" optimizer.lr=0.01  # why
"""  # noqa: E501


def text_with_paths(run):
    more = "run_dir: /home/me/outputs/run 1\ncallbacks:\n  best:\n    dirpath: '/home/me/x/checkpoints'\n"
    more += "  last:\n    images: /home/me/{split}/*.png\n    masks: '/home/me/{name}_{class}.png'\n"
    more += "    lists: /home/me/{split}.txt\n    resume: /home/me/a long name of a folder\n      and/more of it\n"
    more += "    default_root_dir: '/home/me/ends with a slash/'\n    name: x\n"
    return (run / "config.yaml").read_text() + more


def members(path):
    with zipfile.ZipFile(path) as file:
        return {entry.filename: file.read(entry) for entry in file.infolist()}


def test_a_report_from_the_archive_is_that_of_the_folder(sweep, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert archive.write(sweep, sweep.with_name("named.zip")) == 8
    report(sweep, out=out, resamples=200, as_markdown=True)
    from_folder = {path.name: path.read_bytes() for path in out.iterdir()}
    report(sweep.with_name("named.zip"), out=out, resamples=200, as_markdown=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == from_folder
    assert b"the loss became nan in /home/me" in from_folder["report.html"]

    sweep.rename(tmp_path / "elsewhere")  # the command that the report shows finds the archive
    report(sweep, out=out, resamples=200, as_markdown=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == from_folder
    report(sweep.with_name("named.zip"), resamples=200)
    assert (sweep.with_name("named-report") / "report.html").is_file()


def test_an_archive_is_the_same_file_each_time_and_names_no_machine(sweep, tmp_path):
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    archive.write(sweep, first)
    for path in sweep.rglob("*"):
        os.utime(path, (1, 1))
    archive.write(sweep, second)
    assert first.read_bytes() == second.read_bytes()
    content = members(first)
    assert not [name for name in content if "output.log" in name]
    assert json.loads(content["archive.json"])["folders"][0] == "a folder"
    text = {name: data.decode() for name, data in content.items() if name.endswith((".json", ".yaml", ".cells"))}
    assert "cluster7" not in str(text)
    assert [name for name, data in text.items() if "/home/me" in data] == ["ladder8-deconv-s3/run.json"]  # its error
    assert "run_dir: run 1\n" in text["ladder8-deconv-s0/config.yaml"]
    templates = ["images: '*.png'\n", "masks: '{name}_{class}.png'\n", "lists: '{split}.txt'\n"]
    assert [line for line in templates if line not in text["ladder8-deconv-s0/config.yaml"]] == []
    assert yaml.safe_load("".join(templates))["images"] == "*.png"
    ends = ["    resume: more of it\n", "    default_root_dir: 'ends with a slash/'\n    name: x\n"]
    assert [line for line in ends if line not in text["ladder8-deconv-s0/config.yaml"]] == []
    assert "dirpath: 'checkpoints'" in text["ladder8-deconv-s0/config.yaml"]
    assert "data.root=photos" in text["sweep.json"]
    assert "--config-dir=conf" in text["sweep.json"]
    assert text["tuned.cells"] == TUNED_ELSEWHERE
    assert json.loads(text["ladder8-nearest-s0/run.json"])["overrides"] == ["sweep.cells='my x.cells'", "run_dir=x"]
    archive.write(archive.as_folder(first), second)
    assert first.read_bytes() == second.read_bytes()
    archive.write(sweep, second, examples=False)
    assert not [name for name in members(second) if "pictures" in name]


def test_what_is_no_sweep_is_not_archived(sweep, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(UserError, match=r"no run in it|no such folder"):
            archive.write(folder, tmp_path / "x.zip")
    (sweep / "ladder8-deconv-s0" / "metrics.json").unlink()
    (sweep / "ladder8-deconv-s0" / "metrics.json").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="this is a link"):
        archive.write(sweep, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def rewrite(path, *, change=lambda entry: None, extra=(), leave_out=()):
    """Write an archive again, as a stranger could. extra: members to add. change: changes an entry in place."""
    content = members(path)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            if name not in leave_out:
                entry = zipfile.ZipInfo(name)
                change(entry)
                file.writestr(entry, data)
        for entry, data in extra:
            file.writestr(entry, data)


def special(name, kind):
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    return entry


RUN = "ladder8-deconv-s0"
MANIFEST = {"format": "segpipe sweep", "version": 1, "name": "named", "folders": []}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("extra", "leave_out", "says"),
    [
        ([("../evil", "x")], (), "is not a file of a sweep"),
        ([("/tmp/evil", "x")], (), "is not a file of a sweep"),
        ([(f"{RUN}/../../run.json", "x")], (), "is not a file of a sweep"),
        ([(f"{RUN}/evil.py", "x")], (), "is not a file of a sweep"),
        ([(f"{RUN}/checkpoints/best.ckpt", "x")], (), "is not a file of a sweep"),
        ([(".hidden/run.json", "x")], (), "is not a file of a sweep"),
        ([(f"{RUN}/pictures/examples/x.svg", "x")], (), "is not a file of a sweep"),
        ([("a\x1bb/run.json", "x")], (), "is not a file of a sweep"),
        ([("x" * 300 + "/run.json", "x")], (), "is not a file of a sweep"),
        ([("sweep.json", "{}")], (), "there twice"),
        ([("new/", "")], (), "is not a file of a sweep"),
        ([(special("new/run.json", stat.S_IFLNK), "/etc/passwd")], (), "is not a regular file"),
        ([(special("new/run.json", stat.S_IFIFO), "")], (), "is not a regular file"),
        ([], ["archive.json"], "no archive.json"),
        ([("archive.json", "[")], ["archive.json"], "not an archive of a sweep"),
        ([("archive.json", json.dumps(MANIFEST | {"version": 2}))], ["archive.json"], "its version 2 is not known"),
        ([("archive.json", json.dumps(MANIFEST | {"name": "../x"}))], ["archive.json"], "no archive.json of segpipe"),
        (
            [("archive.json", json.dumps(MANIFEST | {"folders": ["/x"]}))],
            ["archive.json"],
            "no archive.json of segpipe",
        ),
        ([("archive.json", "[" * 5000)], ["archive.json"], "archive.json"),
    ],
)
def test_a_member_that_no_archive_has_is_refused(extra, leave_out, says, sweep, tmp_path):
    path = tmp_path / "x.zip"
    archive.write(sweep, path)
    rewrite(path, extra=extra, leave_out=leave_out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=says) as error:
        collect(path)
    assert str(path) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_sizes_are_checked_before_anything_is_unpacked(sweep, tmp_path, monkeypatch):
    path = tmp_path / "x.zip"
    archive.write(sweep, path)
    monkeypatch.setattr(archive, "MAX_UNPACKED", (1000, 0))
    with pytest.raises(UserError, match="at most 1,000 are unpacked"):
        archive.as_folder(path)
    monkeypatch.undo()
    bomb = zipfile.ZipInfo("new/run.json")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    rewrite(path, extra=[(bomb, b" " * (archive.MAX_BYTES + 1))])
    assert path.stat().st_size < 10**6
    with pytest.raises(UserError, match="at most 67,108,864 are read"):
        archive.as_folder(path)
    monkeypatch.setattr(archive, "MAX_DIRECTORY", 100)
    with pytest.raises(UserError, match="the list of its members has"):
        archive.as_folder(path)


def test_a_list_of_members_that_lies_about_its_length_is_refused(sweep, tmp_path):
    path = tmp_path / "x.zip"
    archive.write(sweep, path)
    content = bytearray(path.read_bytes())
    huge = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**40, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(content) - 22, 1)
    path.write_bytes(content[:-22] + huge + locator + content[-22:])
    with pytest.raises(UserError, match="the list of its members has 1,099,511,627,776 bytes"):
        archive.as_folder(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip" * 100, b"PK\5\6" + b"\0" * 18])
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not an archive of a sweep"):
        archive.as_folder(path)


def test_a_pipe_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no such folder"):
        collect(tmp_path / "pipe")


def test_damaged_bytes_are_found_or_change_nothing(sweep, tmp_path):
    """A hundred seeded mutations: refused in a sentence, or unpacked to files that the checksums agree with."""
    path = tmp_path / "x.zip"
    archive.write(sweep, path)
    good = path.read_bytes()
    with zipfile.ZipFile(BytesIO(good)) as file:
        expected = {entry.filename: file.read(entry) for entry in file.infolist()}
    refused = 0
    for seed in range(100):
        draw = random.Random(seed)
        content = bytearray(good)
        where = range(len(good) - 1500, len(good)) if seed % 2 else range(len(good))  # the list is at the end
        for _ in range(draw.choice((1, 4))):
            content[draw.choice(where)] = draw.randrange(256)
        if seed % 10 == 0:
            del content[draw.randrange(len(content)) :]
        path.write_bytes(content)
        os.utime(path, ns=(seed, seed))
        try:
            folder = archive.as_folder(path)
        except UserError:
            refused += 1
        else:
            found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
            assert all(expected.get(name) == data for name, data in found.items())
    assert refused > 50


@pytest.mark.parametrize(
    ("path", "shown"), [(".", "."), ("a/s.zip", "a/s"), ("s", "s"), (".zip", ".zip"), ("..", "..")]
)
def test_the_path_of_a_sweep_is_shown_without_the_suffix(path, shown):
    assert archive.shown_path(Path(path)) == Path(shown)
