"""Which keys of a configuration are no part of a run's identity; ``naming.identity`` digests the others."""

NEVER_CHANGES_THE_RESULT = (
    "hydra", "run_dir", "resume", "warm_start", "sweep", "logger", "debug", "callbacks.best.dirpath",
    "callbacks.last", "callbacks.overlays", "data.root", "data.dataset.root", "data.dataset.images",
    "data.dataset.masks", "data.dataset.download", "data.workers", "data.cache", "data.eval_batch_size",
    "trainer.devices", "trainer.accelerator", "trainer.strategy", "trainer.num_nodes", "trainer.profiler",
    "trainer.name", "trainer.enable_progress_bar", "trainer.enable_model_summary", "task.compile", "match", "budget",
)  # fmt: skip
