"""Shared by the tests that were test_data.py."""

import cv2
import numpy as np


def write_camvid(root, splits=("train", "val", "test"), count=3, suffix=".png", size=(40, 48)):
    rng = np.random.default_rng(0)
    for split in splits:
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for number in range(count):
            stem = f"clip{number % 2}_{number:03d}"
            cv2.imwrite(str(root / split / f"{stem}{suffix}"), rng.integers(0, 256, (*size, 3), np.uint8))
            cv2.imwrite(str(root / f"{split}annot" / f"{stem}.png"), rng.integers(0, 12, size, np.uint8))
    return root


def spoil(root, how):
    folder, masks = root / "train", root / "trainannot"
    if how == "missing":
        masks.rename(root / "annotations")
    elif how == "unpaired":
        (masks / "clip1_001.png").unlink()
    elif how == "sizes":
        cv2.imwrite(str(masks / "clip1_001.png"), np.zeros((20, 20), np.uint8))
    elif how == "label":
        cv2.imwrite(str(masks / "clip1_001.png"), np.full((40, 48), 13, np.uint8))
    elif how == "unreadable":
        (folder / "clip1_001.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    elif how == "empty":
        (folder / "clip1_001.png").write_bytes(b"")
    elif how == "truncated":
        path = masks / "clip1_001.png"
        path.write_bytes(path.read_bytes()[:60])
    elif how == "colours":
        cv2.imwrite(str(masks / "clip1_001.png"), np.zeros((40, 48, 3), np.uint8))
    elif how == "twins":
        cv2.imwrite(str(folder / "clip1_001.jpg"), np.zeros((40, 48, 3), np.uint8))
