"""Data sets, augmentation, sampling, batches."""
