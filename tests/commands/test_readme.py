"""Every command of the README and of docs/data.md, run as it stands there (the long ones with debug=fast).

In ``make test-all`` one command of each module in a new interpreter, too, and in full where that takes seconds.
"""

import re
import shlex
import shutil

import numpy as np
import PIL.Image
import pytest
from support import commands
from support.configs import SHARED
from support.grid import slow
from support.paths import ROOT

TEXT = (ROOT / "README.md").read_text()


PAGES = [ROOT / "README.md", ROOT / "docs" / "getting-started.md", ROOT / "docs" / "data.md"]


BLOCKS = re.findall(r"```bash\n(.*?)```", "".join(page.read_text() for page in PAGES), re.S)


LINES = [line.partition("  #")[0].strip() for line in "".join(BLOCKS).splitlines() if not line.startswith("#")]


COMMANDS = list(dict.fromkeys(line for line in LINES if line))


FAST = ["data.dataset.train=16", "data.dataset.val=4", "data.dataset.test=4", "logger.mode=disabled", "trainer=cpu"]


EXPERIMENTS = [f"experiment={path.stem}" for path in (ROOT / "conf" / "experiment").glob("*.yaml")]


ROOTS = {"CAMVID": SHARED / "data" / "camvid", "NUCLEI": SHARED / "data" / "nuclei"}


PYTHON = [command for command in COMMANDS if command.startswith("python")]


LONG = ("experiment=", "match=", "encoder=resnet")  # words of commands that take several seconds even when made short


COLD = {shlex.split(command)[2]: command for command in reversed(PYTHON)}  # the first of each module


COLD |= {command: command for command in PYTHON if "debug=" in command}


STARTS = [
    *((slow if any(word in command for word in LONG) else tuple)((command, False)) for command in PYTHON),
    *(slow((command, True)) for command in COLD.values()),
]


MAKE = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if re.match(r"[a-z-]+:", line)}


@pytest.fixture(scope="module")
def desk(tmp_path_factory, finished_run):
    """A folder with what the commands speak of: a run, a sweep, photos, pictures with masks."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "RUN").symlink_to(finished_run)
    shutil.copytree(finished_run, folder / "outputs" / "sweeps" / "NAME" / "run")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    PIL.Image.fromarray(noise).save(folder / "photos" / "one.jpg")
    for number in range(30):
        for kind, array in (("images", noise), ("masks", np.uint8(255) * (noise[..., 0] > 127))):
            (folder / "PICTURES" / kind).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(np.roll(array, number, 0)).save(folder / "PICTURES" / kind / f"{number}.png")
    return folder


def quick(words):
    """The same command, made short: a tiny data set and two steps."""
    if words[2] == "segpipe.bound" or any(word.startswith("debug=") for word in words):
        return [*words, *FAST[:3]]
    if words[2] != "segpipe.train":
        return words
    shapes = FAST[3:] if any(word in ("data=folder", *EXPERIMENTS) for word in words) else FAST
    return [*words, "debug=fast", *shapes]


def test_there_are_commands():
    assert len(COMMANDS) >= 15


def test_the_readme_is_short_and_begins_with_what_it_is():
    """The first screen: what it is, one image, one table, one command."""
    assert len(TEXT.splitlines()) <= 150
    first = TEXT.partition("\n## ")[0]
    assert len(first.splitlines()) <= 40
    assert first.count("![") == first.count("\n|---") == first.count("```bash") == 1
    assert BLOCKS[0] == "make train\n"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_targets_exist(command):
    assert shlex.split(command)[1] in MAKE


@pytest.mark.parametrize(("command", "cold"), STARTS)
def test_python_commands_run(command, cold, desk):
    words = shlex.split(command)
    if not cold or (words[2] == "segpipe.train" and "debug=" not in command):
        words = quick(words)
    for name, root in ROOTS.items():
        if any(name in word for word in words):
            if not root.is_dir():
                pytest.skip(f"{name} is not here: it is looked for in shared/data/{root.name} beside the checkout")
            words = [word.replace(name, str(root)) for word in words]
    done = commands.python(words[1:], cwd=desk, cold=cold, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_python_example_runs(desk, monkeypatch):
    monkeypatch.chdir(desk)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    exec(compile(code, "README.md", "exec"), {})


def test_tables_name_what_there_is():
    """No name that conf/ has not. A new file need not be listed: ``python -m segpipe.train --help`` lists them all."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    for group in ("encoder", "neck", "decoder", "fusion", "model", "data", "augment", "loss", "optimizer", "scheduler"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{group}`"))
        names = re.findall(r"`(\w+)`", row.split("|")[2])
        assert names
        for name in names:
            assert (ROOT / "conf" / group / f"{name}.yaml").is_file(), f"docs/configuration.md names {group}={name}"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)  # code may look like a link
        for target in re.findall(r"\]\(([^)#\s]+)\)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
