"""What the package exports, and what it says of itself."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import segpipe

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_what_is_public_is_there_and_documented():
    page = (ROOT / "docs" / "api" / "index.md").read_text()
    for name in segpipe.__all__:
        assert getattr(segpipe, name) is not None
        assert name in dir(segpipe)
        assert f"`segpipe.{name}" in page
    with pytest.raises(AttributeError, match="has no attribute 'anything'"):
        _ = segpipe.anything


def test_importing_the_package_does_not_import_torch():
    code = "import sys, segpipe; segpipe.UserError, segpipe.__version__, segpipe.load; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_version_is_that_of_the_distribution(monkeypatch):
    assert segpipe.__version__ == metadata.version("segpipe")

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert segpipe.__version__ == "0+unknown"


def test_files_name_the_same_version():
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert citation is not None
    assert citation[1] == VERSION
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[:2] == ["Unreleased", VERSION]


def test_pre_commit_runs_the_lint_and_type_steps_of_ci():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [one["repo"] for one in hooks] == ["local"]
    commands = [hook["entry"] for hook in hooks[0]["hooks"]]
    assert commands == ["make lint", "make types"]
    assert set(commands) <= set((ROOT / ".ci" / "run").read_text().splitlines())


@pytest.mark.parametrize("name", ["bug", "feature", "question"])
def test_issue_forms_are_forms(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= form.keys()
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "checkboxes", "dropdown", "markdown")
        assert field["attributes"]["label"]
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    assert any(field.get("validations", {}).get("required") for field in form["body"])
