"""Generated images whose class shows in colour and in the direction of stripes, for smoke runs."""

from __future__ import annotations

import numpy as np

from etfhead.experiment.data.images import ArrayImages, Source
from etfhead.experiment.data.rng import hash_keys

__all__ = ["read_synthetic"]

_CLASSES = 10
_TRAIN_EACH, _TEST_EACH = 32, 8
_SALT = 20_260


def _draw(index: int, label: int, size: int, channels: int) -> np.ndarray:
    noise = hash_keys(np.arange(size * size * channels + 1), _SALT, index) / 2.0**63
    grid = np.arange(size) / size
    angle = np.pi * label / _CLASSES
    along = grid[None, :] * np.cos(angle) + grid[:, None] * np.sin(angle)
    stripes = 40 * np.cos(2 * np.pi * 3 * along + noise[-1])
    tint = 40 * np.cos(2 * np.pi * (label / _CLASSES + np.arange(channels) / 3))
    grain = 60 * (noise[:-1].reshape(size, size, channels) - 0.5)
    return np.rint(128 + stripes[..., None] + tint + grain).clip(0, 255).astype(np.uint8)


def _part(offset: int, each: int, size: int, channels: int) -> ArrayImages:
    labels = np.repeat(np.arange(_CLASSES, dtype=np.int64), each)
    pixels = np.stack([_draw(offset + i, int(k), size, channels) for i, k in enumerate(labels)])
    return ArrayImages(pixels if channels == 3 else pixels[..., 0], labels)


def read_synthetic(img_size: int, in_chans: int) -> Source:
    """Ten classes, 320 training and 80 test images of exactly the size that the model takes.

    The pixels come from a hash, not from a generator, so they are the same on every machine.

    Args:
        img_size: Height and width in pixels.
        in_chans: 1 or 3.

    Example:
        >>> read_synthetic(8, 3).train.pixels.shape
        (320, 8, 8, 3)
    """
    return Source(
        _part(0, _TRAIN_EACH, img_size, in_chans),
        _part(_CLASSES * _TRAIN_EACH, _TEST_EACH, img_size, in_chans),
        tuple(f"pattern {k}" for k in range(_CLASSES)),
        root="generated",
    )
