"""The versions that a result may depend on: Python, libraries, and the commit of the code."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "albumentations", "numpy", "wandb")


def environment() -> dict[str, Any]:
    """Return the versions of Python and of the libraries, and the state of the git checkout."""
    versions = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "versions": versions, "git": git_state(Path(__file__).parent)}


def git_state(folder: Path) -> str | None:
    """Return the commit of the code, followed by ``+changes`` where files differ from it; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
