"""Which keys of a configuration are no part of a run's identity, or not always; ``naming.identity`` takes the rest."""

from typing import Any

IGNORED_IN_IDENTITY = (
    "hydra", "run_dir", "resume", "warm_start", "sweep", "logger", "debug", "callbacks.best.dirpath",
    "callbacks.last", "callbacks.overlays", "data.root", "data.dataset.root", "data.dataset.images",
    "data.dataset.masks", "data.dataset.download", "data.workers", "data.cache", "data.eval_batch_size",
    "trainer.devices", "trainer.accelerator", "trainer.strategy", "trainer.num_nodes", "trainer.profiler",
    "trainer.name", "trainer.enable_progress_bar", "trainer.enable_model_summary", "task.compile", "match", "budget",
)  # fmt: skip

# Keys that came later, each with the value that means what was before: where it holds that one, an identity is what it
# was. A component's ``revision`` is raised by one when a repair changes the results of the runs that it touches.
ADDED_SINCE: dict[str, Any] = {
    "augment.revision": 0,  # 1: transforms that resize keep masks registered (data.augment.REGISTERED)
    "data.revision": 0,  # 1: images and masks are resized by data.resize, where data.size is another than theirs
    "encoder.revision": 0,  # see the encoder's class
    "neck.revision": 0,  # see the neck's class
}
