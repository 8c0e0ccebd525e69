"""The licences of everything that segpipe installs: permissive ones, weak copyleft of files, and NVIDIA's libraries."""

import re
from contextlib import suppress
from importlib import metadata

import pytest
from support.paths import ROOT

ALLOWED = re.compile(
    r"MIT|BSD|Apache|PSF|Python Software Foundation|ISC|Zlib|CC0|BSL-1.0|Unlicense|HPND|MPL|Mozilla Public License",
    re.I,
)
CUDA = re.compile(r"nvidia-.*|cuda-.*")  # of torch's wheels: NVIDIA's own licence allows their use


def requirements(distribution, extras):
    """The names of what a distribution requires, with some of its extras."""
    for line in distribution.requires or []:
        if "extra ==" not in line or any(re.search(f"extra == ['\"]{extra}['\"]", line) for extra in extras):
            yield re.match(r"[\w.-]+", line)[0]


def installed_with(name, extras):
    """All installed distributions that come with one, by name."""
    known, waiting = {}, [(name, extras)]
    while waiting:
        current, wanted = waiting.pop()
        key = re.sub(r"[-_.]+", "-", current).lower()
        if key not in known:
            with suppress(metadata.PackageNotFoundError):  # for another platform
                distribution = metadata.distribution(current)
                known[key] = distribution.metadata
                waiting += [(other, ()) for other in requirements(distribution, wanted)]
    return known


def licence(about):
    """What a distribution says of its licence, in the newer form or in one of the older ones."""
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier", []) if line.startswith("License")]
    return about.get("License-Expression") or "; ".join(classifiers) or about.get("License") or "none"


def test_every_dependency_may_be_used_freely():
    found = {
        name: licence(about)
        for name, about in installed_with("segpipe", ("timm", "cluster", "export")).items()
        if not CUDA.fullmatch(name)
    }
    assert len(found) > 40
    assert {name: said for name, said in found.items() if not ALLOWED.search(said)} == {}


def test_the_lock_file_pins_every_dependency_by_hash():
    """Those of this platform; ``make lock`` writes it again."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines if re.match(r"[\w.-]+==", line)]
    hashed = "\n".join(lines).count("==") == sum(line.endswith("\\") and "==" in line for line in lines)
    assert hashed
    missing = installed_with("segpipe", ("timm", "cluster", "dev")).keys() - {*pinned, "segpipe"}
    assert {name for name in missing if not CUDA.fullmatch(name)} == set()


@pytest.mark.parametrize(("said", "free"), [("AGPL-3.0", False), ("Proprietary", False), ("BSD-3-Clause", True)])
def test_a_licence_is_told_apart(said, free):
    assert bool(ALLOWED.search(said)) is free
