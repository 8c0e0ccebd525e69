"""Shared by the tests that were test_train.py."""

import torch

from segpipe.training.task import SegmentationTask


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def interrupted_in(epoch, monkeypatch):
    """Let a training be interrupted at the end of an epoch."""
    ended = SegmentationTask.on_train_epoch_end

    def interrupt(self):
        if self.current_epoch == epoch:
            raise KeyboardInterrupt
        ended(self)

    monkeypatch.setattr(SegmentationTask, "on_train_epoch_end", interrupt)
