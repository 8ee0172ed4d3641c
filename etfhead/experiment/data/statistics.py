"""Mean and standard deviation that images are normalised with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from etfhead.experiment.data.images import ArrayImages, Images
from etfhead.experiment.recipe import Recipe

__all__ = ["Normalization", "channel_statistics", "choose_normalization", "pretrained_normalization"]

_CHUNK = 4096


@dataclass(frozen=True)
class Normalization:
    """``(x / 255 - mean) / std`` for each channel.

    Args:
        mean: One value a channel, in units of the full range.
        std: One positive value a channel.
        origin: Where the numbers come from, for the run folder.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str

    def facts(self) -> dict[str, Any]:
        """What the run folder says of it."""
        return {"mean": list(self.mean), "std": list(self.std), "normalization_from": self.origin}


def channel_statistics(images: ArrayImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, scaled to 0..1, from exact integer sums.

    A channel without any variation gets one grey level as standard deviation, so that it can be divided by.

    Example:
        >>> pixels = np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1)
        >>> channel_statistics(ArrayImages(pixels, np.zeros(2, dtype=np.int64)))
        ((0.5,), (0.5,))
    """
    channels = 1 if images.pixels.ndim == 3 else images.pixels.shape[-1]
    total, squares = [0] * channels, [0] * channels
    for start in range(0, len(images), _CHUNK):
        block = images.pixels[start : start + _CHUNK].reshape(-1, channels).astype(np.uint16)
        for c in range(channels):
            total[c] += int(block[:, c].sum(dtype=np.uint64))
            squares[c] += int((block[:, c] * block[:, c]).sum(dtype=np.uint64))
    count = images.pixels.size // channels
    # count * squares - total^2 in integers: the difference of two floats would lose the small variances.
    variance = [(count * s - t * t) / count**2 for s, t in zip(squares, total, strict=True)]
    mean = tuple(t / count / 255 for t in total)
    return mean, tuple(max(math.sqrt(v), 1.0) / 255 for v in variance)


def pretrained_normalization(recipe: Recipe) -> Normalization | None:
    """What the published weights of the recipe's model were trained with, if it has the same channels."""
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(recipe.model)
    if cfg is None or not len(cfg.mean) == recipe.in_chans == len(cfg.std):
        return None
    return Normalization(tuple(cfg.mean), tuple(cfg.std), f"pretrained {recipe.model}")


def choose_normalization(recipe: Recipe, train: Images) -> Normalization:
    """The recipe's mean and std, else the pretrained model's, else the training part's, else ImageNet's.

    Sets in memory are measured over the whole training part before any split, so that the numbers do not
    move with ``split_seed`` or ``train_limit``. For gray models on image files, ImageNet's channels are
    averaged.

    Args:
        recipe: Takes ``mean``, ``std``, ``in_chans``, ``pretrained`` and ``model``.
        train: The training part, gray already when ``in_chans`` is 1.
    """
    if recipe.mean is not None and recipe.std is not None:
        return Normalization(recipe.mean, recipe.std, "recipe")
    if recipe.pretrained and (own := pretrained_normalization(recipe)) is not None:
        return own
    if isinstance(train, ArrayImages):
        mean, std = channel_statistics(train)
        repeat = recipe.in_chans // len(mean)
        return Normalization(mean * repeat, std * repeat, "training part")
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    if recipe.in_chans == 3:
        return Normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, "ImageNet")
    gray = (sum(IMAGENET_DEFAULT_MEAN) / 3,), (sum(IMAGENET_DEFAULT_STD) / 3,)
    return Normalization(*gray, "ImageNet, channels averaged")
