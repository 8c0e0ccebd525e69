"""Every diff of docs/extending applies to a copy of the tree, and the commands behind it run there.

A page holds one or more ``diff`` blocks, each with at least one ``bash`` block behind it. They are taken in order.
Commands run in the copy, whose code they import. A training is made short, unless the page gives ``debug=`` itself.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.grid import grid
from support.paths import ROOT

PAGES = sorted((ROOT / "docs" / "extending").glob("*.md"))


FENCE = re.compile(r"^```(diff|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


COPIED = ["segpipe", "conf", "tests", "pyproject.toml", "README.md"]  # and docs/*.md


SHORT = "debug=fast trainer=cpu +trainer.enable_progress_bar=false"


SMALL = "data.dataset.train=16 data.dataset.val=4 data.dataset.test=4"  # of the scenes that are drawn by default


SHELL = """
python() {
  case " $* " in
    *" debug="* | *" resume="*) ;;
    " -m segpipe.train "*" data="*) set -- "$@" $SHORT ;;
    " -m segpipe.train "*) set -- "$@" $SHORT $SMALL ;;
  esac
  "$PYTHON" "$@"
}
"""


def blocks(page):
    """The (kind, content) of a page's diffs and of the commands behind the first of them."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    first = next((place for place, (kind, _) in enumerate(found) if kind == "diff"), len(found))
    return found[first:]


@pytest.fixture
def tree(tmp_path):
    """A copy of the code, the configuration, the tests and the pages, outside any repository."""
    folder = tmp_path / "tree"
    (folder / "docs").mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for path in (ROOT / "docs").glob("*.md"):
        shutil.copy(path, folder / "docs")
    return folder


def run(words, folder, **given):
    """What a command prints; a failure shows it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GIT_"))}
    own = {"PYTHONPATH": str(folder), "PYTHON": sys.executable, "SHORT": SHORT, "SMALL": SMALL}
    own["GIT_CEILING_DIRECTORIES"] = str(folder.parent)  # or a repository around it would decide what git applies
    output = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": 300}
    done = subprocess.run(words, cwd=folder, env=kept | own, **output | given)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-4000:]}"
    return done.stdout


WITH_DIFFS = [page for page in PAGES if blocks(page)]
QUICK = [page for page in WITH_DIFFS if page.stem == "operator"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git applies the diffs, and there is none here")
@pytest.mark.parametrize("page", grid(WITH_DIFFS, quick=QUICK), ids=lambda page: page.stem)
def test_the_diffs_apply_and_the_commands_behind_them_run(page, tree):
    kinds = [kind for kind, _ in blocks(page)]
    assert kinds[-1] == "bash", f"{page.name}: the last diff has no bash block behind it"
    assert ("diff", "diff") not in itertools.pairwise(kinds), f"{page.name}: a diff has no bash block behind it"
    for kind, content in blocks(page):
        if kind == "diff":
            run(["git", "apply", "--verbose", "-"], tree, input=content)
        else:
            run(["bash", "-euo", "pipefail", "-c", SHELL + content], tree)
    where = run(["bash", "-c", SHELL + "python -c 'import segpipe; print(segpipe.__file__)'"], tree)
    assert Path(where.strip()).parent == tree / "segpipe"


@pytest.mark.skipif(shutil.which("git") is None, reason="git applies the diffs, and there is none here")
@pytest.mark.parametrize("page", WITH_DIFFS, ids=lambda page: page.stem)
def test_the_diffs_apply(page, tree):
    """Without the commands, which take longer: a change of the code shows at once which page it makes wrong."""
    for kind, content in blocks(page):
        if kind == "diff":
            run(["git", "apply", "--verbose", "-"], tree, input=content)


@pytest.mark.skipif(shutil.which("git") is None, reason="git applies the diffs, and there is none here")
def test_all_components_together_are_well_formatted(tree):
    """As ``make lint`` asks of whoever adds one."""
    pytest.importorskip("ruff")
    for page in WITH_DIFFS:
        for kind, content in blocks(page):
            if kind == "diff":
                run(["git", "apply", "-"], tree, input=content)
    for words in (["ruff", "check", "segpipe"], ["ruff", "format", "--check", "segpipe"]):
        run([sys.executable, "-m", *words], tree)


COMMAND = re.compile(r"`python -m (pytest tests -k \w+)`")


NAMED = {page: COMMAND.findall(page.read_text(encoding="utf-8")) for page in WITH_DIFFS}


@pytest.mark.slow  # minutes each
@pytest.mark.skipif(shutil.which("git") is None, reason="git applies the diffs, and there is none here")
@pytest.mark.parametrize("page", [page for page in WITH_DIFFS if NAMED[page]], ids=lambda page: page.stem)
def test_the_tests_that_a_page_names_pass(page, tree):
    """Those that are not slow. A test that knows the components of this repository alone would fail here."""
    for kind, content in blocks(page):
        if kind == "diff":
            run(["git", "apply", "-"], tree, input=content)
    (words,) = NAMED[page]
    kinds = [f"tests/{name}" for name in ("config", "data", "engine", "lab", "metrics", "models", "training")]
    words = [*words.replace("tests", " ".join(kinds)).split(), "-m", "not slow", "-n", "0", "-p", "no:cacheprovider"]
    assert " passed" in run([sys.executable, "-m", *words], tree, timeout=1200)


ONE_FILE = {"metric", "model"}


@pytest.mark.parametrize("page", WITH_DIFFS, ids=lambda page: page.stem)
def test_a_component_is_a_class_and_a_file_under_conf(page):
    names = re.findall(r"^\+\+\+ b/(\S+)", page.read_text(), re.MULTILINE)
    assert len(names) == (1 if page.stem in ONE_FILE else 2)
    assert sum(name.startswith("conf/") for name in names) == (page.stem != "metric")


def test_there_are_pages():
    assert any(blocks(page) for page in PAGES)
