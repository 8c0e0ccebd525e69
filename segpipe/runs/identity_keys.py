"""The keys of a configuration that are no part of a run's identity, and the keys that are part of it conditionally."""

from typing import Any

# Keys of folders of data; those of TEMPLATE_KEYS may be templates of paths. LOCATIONS: of all paths that a run reads,
# which may be moved between two starts.
TEMPLATE_KEYS = ("data.dataset.images", "data.dataset.masks", "data.dataset.lists")
DATA_KEYS = ("data.root", "data.dataset.root", *TEMPLATE_KEYS)
LOCATIONS = (*DATA_KEYS, "warm_start")

# Keys whose value is no part of the identity, but what it leads to is: files of weights and of data. Of the others, the
# fingerprint of the data has what they mean.
CONTENT_IN_IDENTITY = (
    *LOCATIONS, "data.channels", "data.dataset.channels", "data.dataset.pages", "data.dataset.axes",
)  # fmt: skip
CHOSEN = ("match", "budget", "debug")  # keys that set other keys: no part of the identity, but choices of a cell
NO_EFFECT = (  # keys that never change the result
    "hydra", "run_dir", "resume", "trust", "sweep", "logger", "callbacks.best.dirpath", "callbacks.last",
    "callbacks.overlays", "data.dataset.download", "data.workers", "data.cache", "data.eval_batch_size",
    "trainer.devices", "trainer.accelerator", "trainer.strategy", "trainer.num_nodes", "trainer.profiler",
    "trainer.name", "trainer.enable_progress_bar", "trainer.enable_model_summary", "task.compile", "pictures",
)  # fmt: skip
IGNORED_IN_IDENTITY = (*NO_EFFECT, *CONTENT_IN_IDENTITY, *CHOSEN)

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
