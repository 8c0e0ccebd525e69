"""Data sets, augmentation, sampling: everything up to the batch."""
