"""Where the data of a run lie on this machine: noted in the user's cache when a training starts.

A folder that a run's files name is never used, because a run may come from a stranger. The note is another thing: the
user's own command line gave the folder. It is found by the fingerprint of the data, so it also serves a run that was
moved, and a run leads only to data that are the same as its own.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segpipe.data import cache
from segpipe.data.folder.paths import is_template
from segpipe.runs.identity_keys import DATA_KEYS, TEMPLATE_KEYS


def note(cfg: DictConfig, fingerprints: Mapping[str, str]) -> None:
    """Store the absolute paths of the folders of a configuration. fingerprints: of its data, by split."""
    given = {key: OmegaConf.select(cfg, key) for key in DATA_KEYS}
    below = given["data.root"] is not None  # templates, and folders that are not in the working folder
    folders = {
        key: value if below and key in TEMPLATE_KEYS and not os.path.exists(value) else os.path.abspath(value)
        for key, value in given.items()
        if isinstance(value, str)
    }
    if folders and cache.read(name_of(fingerprints)) != folders:
        cache.write(name_of(fingerprints), folders)


def noted(fingerprints: Mapping[str, str]) -> dict[str, str]:
    """Return the noted folders of data with these fingerprints, by key; empty if one of them does not exist any more.

    fingerprints: of a run's record, which may come from a stranger.
    """
    content: Any = cache.read(name_of(fingerprints)) if fingerprints else None
    folders = content if isinstance(content, dict) else {}
    exist = all(
        key in DATA_KEYS
        and isinstance(path, str)
        and (Path(path).exists() or (key in TEMPLATE_KEYS and (is_template(path) or not os.path.isabs(path))))
        for key, path in folders.items()
    )
    return folders if exist else {}


def use(cfg: DictConfig, record: Mapping[str, Any], *, only_missing: bool = False) -> None:
    """Set the keys of a configuration to the folders that are noted for the data of a run.

    record: of the run. only_missing: keep a value that is not null.
    """
    for key, value in noted(record.get("data_fingerprint", {})).items():
        node = OmegaConf.select(cfg, key.rpartition(".")[0])
        last = key.rpartition(".")[2]
        if isinstance(node, DictConfig) and last in node and not (only_missing and node[last] is not None):
            node[last] = value


def name_of(fingerprints: Mapping[str, str]) -> str:
    """Return the name of a note in the cache."""
    text = json.dumps(dict(fingerprints), sort_keys=True)
    return f"data-folders-{hashlib.blake2b(text.encode(errors='surrogateescape'), digest_size=12).hexdigest()}"
