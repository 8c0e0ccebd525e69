"""The keys of a configuration that are no part of a run's identity, and the keys that are part of it conditionally."""

from typing import Any

IGNORED_IN_IDENTITY = (
    "hydra", "run_dir", "resume", "trust", "warm_start", "sweep", "logger", "debug", "callbacks.best.dirpath",
    "callbacks.last", "callbacks.overlays", "data.root", "data.dataset.root", "data.dataset.images",
    "data.dataset.masks", "data.dataset.lists", "data.dataset.download", "data.channels", "data.dataset.channels",
    "data.dataset.pages", "data.dataset.axes",  # channels, pages, axes: the fingerprint of the data has what they mean
    "data.workers", "data.cache", "data.eval_batch_size",
    "trainer.devices", "trainer.accelerator", "trainer.strategy", "trainer.num_nodes", "trainer.profiler",
    "trainer.name", "trainer.enable_progress_bar", "trainer.enable_model_summary", "task.compile", "match", "budget",
    "pictures",
)  # fmt: skip

# Of these, keys whose value is no part of the identity, but what it leads to is: files of weights and of data.
CONTENT_IN_IDENTITY = (
    "warm_start", "data.root", "data.dataset.root", "data.dataset.images", "data.dataset.masks", "data.dataset.lists",
    "data.channels", "data.dataset.channels", "data.dataset.pages", "data.dataset.axes",
)  # fmt: skip
CHOSEN = ("match", "budget", "debug")  # of IGNORED_IN_IDENTITY: they set other keys, so they are choices of a cell
NO_EFFECT = tuple(key for key in IGNORED_IN_IDENTITY if key not in (*CONTENT_IN_IDENTITY, *CHOSEN))

# Keys that were added later, each with the value that stands for the earlier behaviour. A key with this value is left
# out of the identity, so that old identities stay the same. The ``revision`` of a component is increased by one when a
# fix changes the results of runs.
ADDED_SINCE: dict[str, Any] = {
    "augment.revision": 0,  # 1: transforms that resize keep masks registered (data.augment.REGISTERED)
    "decoder.init": "interpolation",
    "decoder.residual": False,
    "data.rare_share": 0,
    "data.dataset.instances": None,
    "data.dataset.merge": None,
    "data.dataset.unlabelled": "error",
    "data.revision": 0,  # 1: images and masks are resized by data.resize, where data.size is another than theirs
    "data.steps_per_epoch": None,  # an epoch has a crop of each image
    "fusion.at": None,  # all steps have a skip
    "fusion.attention": None,
    "fusion.drop": 0,
    "model.deep_supervision": False,
    "encoder.cache": False,  # true stores the features as computed and stands for the same; see ``canonical``
    "encoder.revision": 0,  # see the encoder's class
    "neck.revision": 0,  # see the neck's class
}
