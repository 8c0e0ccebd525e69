"""The versions that a result may depend on: Python, libraries, and the commit of the code."""

import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segpipe.errors import UserError
from segpipe.runs.storage import read_bytes

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "albumentations", "numpy", "wandb")
CHANGES = "+changes"  # follows the commit where files differ from it


def environment() -> dict[str, Any]:
    """Return the versions of Python and of the libraries, and the state of the git checkout."""
    versions = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "versions": versions, "git": code_version()}


def installed_version() -> str:
    """Return the version of the installed distribution; ``0+unknown`` where the package is not installed."""
    try:
        return metadata.version("segpipe")
    except metadata.PackageNotFoundError:
        return "0+unknown"


@cache
def code_version() -> str | None:
    """Return ``git_state`` of this package's checkout, which is read once: a process keeps the code it has loaded."""
    return git_state(Path(__file__).parents[2])


def git_state(folder: Path) -> str | None:
    """Return the commit of the code; None outside a checkout.

    Where files differ from the commit, ``+changes-`` and eight digits follow: a digest of the difference and of new
    files that git does not ignore. folder: the root of the checkout.
    """
    try:
        described = (
            git(folder, "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*").decode().strip()
        )
        new = git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", "segpipe", "conf")
        names = [name for name in new.decode(errors="surrogateescape").split("\0") if name]
        if not described.endswith(CHANGES) and not names:
            return described
        digest = hashlib.blake2b(git(folder, "diff", "HEAD", "--binary"), digest_size=4)
        for name in names:
            digest.update(name.encode(errors="surrogateescape"))
            with suppress(OSError, UserError):
                digest.update(read_bytes(folder / name))
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{described.removesuffix(CHANGES)}{CHANGES}-{digest.hexdigest()}"


def git(folder: Path, *arguments: str) -> bytes:
    """Return the output of a git command. Raises SubprocessError or OSError where it fails."""
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, timeout=10, check=True).stdout


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
