"""The architecture, guarded: who may import whom, and where each library is used."""

import ast
import re
import sys

import pytest
from support.paths import ROOT

PAGE = ROOT / "docs" / "architecture.md"
ROOT = ROOT / "segpipe"


COMMANDS = {
    "train", "evaluate", "predict", "report", "inspect", "check_data", "bound", "tune", "architectures", "archive",
    "export",
    "segpipe",
}  # fmt: skip


MAY_IMPORT = {  # of the packages below; a package may import itself
    "errors": set(),
    "terminal": {"errors"},
    "deprecation": set(),
    "metrics": {"errors"},
    "models": {"errors"},
    "runs": {"errors", "metrics"},
    "data": {"errors", "metrics", "runs"},
    "lab": {"errors", "metrics", "models", "data"},
    "training": {"errors", "metrics", "models", "runs", "data", "lab"},
    "analysis": {"errors", "metrics", "runs", "data", "lab"},
    "config": {"errors", "terminal", "metrics", "models", "runs", "data", "training"},
    # analysis: engine/pictures.py draws with matplotlib, which only analysis may use
    "engine": {"errors", "terminal", "metrics", "models", "runs", "data", "lab", "training", "analysis", "config"},
}


ONLY_IN = {  # a library: the packages and commands that use it
    "hydra": {"config", "engine", "train", "evaluate", "check_data", "bound", "architectures"},
    "albumentations": {"data"},
    "wandb": {"training"},
    "matplotlib": {"analysis"},
    "jinja2": {"analysis"},
    "rich": {"analysis", "data", "engine", "runs", *COMMANDS},
    "pytorch_lightning": {"data", "training", "config", "engine"},
}


OPEN = {"models/", "training/"}  # docs/extending adds modules there, which architecture.md need not name
PATHS = sorted(ROOT.rglob("*.py"))


def dotted(path):
    return ".".join(("segpipe", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {dotted(path) for path in PATHS}


def package(name):
    """``runs`` for ``segpipe.runs.storage``, ``train`` for the command."""
    return name.removeprefix("segpipe.").partition(".")[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in names)


def test_every_package_has_its_row():
    packages = {package(name) for name in MODULES}
    assert packages == set(MAY_IMPORT) | COMMANDS


def test_the_table_of_packages_names_every_module():
    table = PAGE.read_text(encoding="utf-8").partition("## Packages")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| `")]
    named = {}
    for packages, _, modules in rows:
        for name in re.findall(r"`([\w/.]+)`", packages):
            named.setdefault(name, set()).update(re.findall(r"`([\w/]+)`", modules))
    tops = {path.name if path.stem in MAY_IMPORT else path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    folders = [path.parent for path in ROOT.rglob("__init__.py") if path.parent != ROOT]
    tops |= {f"{path.name}/" for path in folders if path.parent == ROOT}
    assert tops <= set(named)
    for folder in folders:
        if (name := f"{folder.relative_to(ROOT)}/") in named:
            modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
            below = {f"{path.name}/" for path in folders if path.parent == folder}
            below -= {one for one in below if f"{name}{one}" in named}
            assert named[name] <= modules | below, name
            if name not in OPEN:
                assert named[name] == modules | below, name


@pytest.mark.parametrize("path", PATHS, ids=dotted)
def test_imports_run_one_way(path):
    own = package(dotted(path))
    known = {package(name) for name in imports(path) if name.partition(".")[0] == "segpipe"} - {own}
    allowed = MAY_IMPORT.get(own, set(MAY_IMPORT) | {"segpipe"})  # a command stands above all
    assert known <= allowed, f"{dotted(path)} imports from {sorted(known - allowed)}"


@pytest.mark.parametrize("path", PATHS, ids=dotted)
def test_libraries_stay_where_they_belong(path):
    found = {name.partition(".")[0] for name in imports(path)}
    own = package(dotted(path))
    assert [library for library, allowed in ONLY_IN.items() if library in found and own not in allowed] == []
    if own == "models":
        known = {"torch", "torchvision", "segpipe", *sys.stdlib_module_names} | ({"timm"} & {path.stem})
        assert found <= known


def test_modules_of_a_package_do_not_import_in_a_circle():
    below = {dotted(path): {name for name in imports(path) if name in MODULES} for path in PATHS}
    done: set[str] = set()

    def follow(name, chain):
        assert name not in chain, " -> ".join([*chain, name])
        if name not in done:
            for other in sorted(below[name]):
                follow(other, [*chain, name])
            done.add(name)

    for name in sorted(below):
        follow(name, [])


@pytest.mark.parametrize("path", PATHS, ids=dotted)
def test_functions_are_short(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno >= 65] == []
