"""Which key was meant by one that does not exist."""

import difflib
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from segpipe.config.schema import CONF, options
from segpipe.errors import nearest

WORDS_OF_OTHERS = {  # names that other programs have for a key of ours
    "arch": "model", "architecture": "model", "network": "model", "backbone": "encoder", "operator": "decoder",
    "upsample": "decoder", "upsampling": "decoder", "skip": "fusion", "skips": "fusion", "criterion": "loss",
    "dataset": "data", "data_dir": "data.root", "data_path": "data.root", "root": "data.root", "dir": "data.root",
    "path": "data.root", "images": "data.dataset.images", "masks": "data.dataset.masks",
    "labels": "data.dataset.masks", "classes": "data.dataset.classes", "image_size": "data.size",
    "img_size": "data.size", "size": "data.size", "resize": "data.size", "crop": "data.crop",
    "crop_size": "data.crop", "bs": "data.batch_size", "batch": "data.batch_size",
    "num_workers": "data.workers", "augmentation": "augment", "augmentations": "augment", "transforms": "augment",
    "lr": "optimizer.lr", "learning_rate": "optimizer.lr", "wd": "optimizer.weight_decay",
    "lr_scheduler": "scheduler", "epoch": "trainer.max_epochs", "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs", "gpu": "trainer.devices", "gpus": "trainer.devices",
    "device": "trainer.accelerator", "amp": "trainer.precision", "fp16": "trainer.precision",
    "grad_clip": "task.clip", "accumulate_grad_batches": "task.accumulate", "random_seed": "seed",
    "checkpoint": "resume", "ckpt": "resume", "ckpt_path": "resume", "pretrained": "encoder.weights",
    "output": "hydra.run.dir", "output_dir": "hydra.run.dir", "out": "hydra.run.dir", "out_dir": "hydra.run.dir",
    "log_dir": "hydra.run.dir", "name": "sweep.name", "config": "experiment", "exp": "experiment",
    "plugins": "hydra/launcher", "launcher": "hydra/launcher", "sweeper": "hydra/sweeper", "wandb": "logger",
    "project": "logger.project", "workers": "data.workers",
}  # fmt: skip


def hint_for(given: str, known: list[str]) -> str:
    """Return ``Did you mean ...?`` with the key that is meant: by its last part, by another name of it, or the nearest.

    given: a dotted path. known: the keys that exist.
    """
    given = given.lower().replace("-", "_")
    group, _, rest = given.partition(".")
    last = given.rpartition(".")[2]
    if given in WORDS_OF_OTHERS:
        return f" Did you mean '{WORDS_OF_OTHERS[given]}'?"
    if group != "hydra":
        known = [key for key in known if not key.startswith("hydra")]
    in_group = [key for key in known if key.startswith(f"{group}.")] or known
    same_end = [key for key in in_group if key != given and key.rpartition(".")[2] == last]
    if same_end:
        return f" Did you mean '{same_end[0]}'?" if len(same_end) == 1 else nearest(given, same_end)
    if group == "trainer" and last in WORDS_OF_OTHERS:
        return f" Did you mean '{WORDS_OF_OTHERS[last]}'?"
    beside = [key for key in known if key.startswith(f"{given.rpartition('.')[0]}.")] if rest else known
    ends = {key: key.rpartition(".")[2] for key in beside or in_group}
    close = difflib.get_close_matches(last, ends.values(), n=1, cutoff=0.6)
    meant = next((key for key, end in ends.items() if end in close), None)
    return f" Did you mean '{meant}'?" if meant else ""


def key_meant(given: str) -> str:
    """Return the key of ours for a word that other programs use; else the word: ``optimizer.lr`` for ``lr``."""
    return WORDS_OF_OTHERS.get(given.lower().replace("-", "_"), given)


def choices_with(group: str, key: str) -> list[str]:
    """Return the choices of a config group that have a key, such as ``decoder=deconv`` for ``kernel``."""
    files = ((name, OmegaConf.load(CONF / group / f"{name}.yaml")) for name in (options(group) if key else ()))
    return [f"{group}={name}" for name, node in files if isinstance(node, DictConfig) and key in leaves(node)]


def leaves(cfg: DictConfig, path: str = "") -> Iterator[str]:
    """Yield every key of a configuration as a dotted path."""
    for key, node in cfg.items_ex(resolve=False):
        full = path + str(key)
        yield full
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from leaves(node, f"{full}.")


def groups() -> list[str]:
    """Return the names of the config groups."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())
