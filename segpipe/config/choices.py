"""What the config groups offer."""

from functools import cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from segpipe.config.schema import CONF, options


@cache
def files(group: str) -> dict[str, DictConfig]:
    """What the files of a config group say, by name: first the default choice, then by the alphabet. Not to be changed.

    Not for groups whose files build on others.
    """
    root: Any = OmegaConf.load(CONF / "train.yaml")
    default = next(entry[group] for entry in root.defaults if group in entry)
    names = sorted(options(group), key=lambda name: (name != default, name))
    return {name: cast(DictConfig, OmegaConf.load(CONF / group / f"{name}.yaml")) for name in names}
