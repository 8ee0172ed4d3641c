"""timm's transforms from a recipe, cut where a set in memory can be prepared once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor

from etfhead.experiment.data.statistics import Normalization
from etfhead.experiment.recipe import Recipe

__all__ = [
    "Transform",
    "eval_transform",
    "resize_only",
    "resized_side",
    "train_transform",
]

Transform = Callable[[Image.Image], Tensor]


def resized_side(recipe: Recipe, train: bool) -> int:
    """Shorter side, in pixels, that timm resizes an image to before the centre crop of ``img_size``."""
    return recipe.img_size if train else math.floor(recipe.img_size / recipe.crop_pct)


def resize_only(recipe: Recipe, train: bool) -> Transform:
    """The geometry of the deterministic transform: resize, centre crop, uint8 tensor (C, H, W).

    Args:
        recipe: Takes ``img_size``, ``interpolation`` and, for evaluation, ``crop_pct``.
        train: Training geometry, where timm ignores ``crop_pct``.
    """
    from timm.data import create_transform

    return create_transform(
        recipe.img_size,
        is_training=train,
        no_aug=True,
        interpolation=recipe.interpolation,
        crop_pct=recipe.crop_pct,
        normalize=False,
    )


def eval_transform(recipe: Recipe, norm: Normalization) -> Transform:
    """The evaluation transform of timm: resize by ``crop_pct``, centre crop, normalise."""
    from timm.data import create_transform

    return create_transform(
        recipe.img_size,
        interpolation=recipe.interpolation,
        crop_pct=recipe.crop_pct,
        mean=norm.mean,
        std=norm.std,
    )


def train_transform(recipe: Recipe, norm: Normalization) -> Transform:
    """The training transform of timm, or the small-image crop in place of its random resized crop.

    timm draws a random resized crop whatever the image size. With ``crop_padding`` > 0 that first stage
    becomes what networks for CIFAR are trained with: zero-pad, crop ``img_size``, flip. The later stages
    (auto-augment, colour jitter, normalisation, random erasing) stay timm's.

    Args:
        recipe: The augmentation fields.
        norm: Mean and standard deviation.

    Raises:
        ValueError: If timm does not understand ``aa``, or is too old for AugMix of grey images.
    """
    import timm
    from timm.data import create_transform
    from timm.data.auto_augment import AugMixAugment

    options: dict[str, Any] = {
        "is_training": True,
        "interpolation": recipe.interpolation,
        "mean": norm.mean,
        "std": norm.std,
    }
    if recipe.no_aug:
        return create_transform(recipe.img_size, no_aug=True, **options)
    try:
        crop, color, final = create_transform(
            recipe.img_size,
            scale=recipe.scale,
            ratio=recipe.ratio,
            hflip=recipe.hflip,
            vflip=recipe.vflip,
            color_jitter=recipe.color_jitter,
            auto_augment=recipe.aa,
            re_prob=recipe.reprob,
            separate=True,
            **options,
        )
    except (AssertionError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"timm cannot build the augmentation aa={recipe.aa!r}: {error or type(error).__name__}; "
            "aa takes strings such as rand-m9-mstd0.5, original or augmix-m3"
        ) from error
    augmix = any(isinstance(step, AugMixAugment) and not step.blended for step in color.transforms)
    if augmix and recipe.in_chans == 1 and _version(timm.__version__) < (1, 0, 30):
        raise ValueError(
            f"aa={recipe.aa!r}: AugMix of grey images fails before timm 1.0.30, and {timm.__version__} is "
            "installed; pip install 'timm>=1.0.30', or use another aa, such as rand-m9-mstd0.5"
        )
    from torchvision import transforms

    if recipe.crop_padding:
        crop = transforms.Compose(
            [
                *create_transform(recipe.img_size, no_aug=True, normalize=False, **options).transforms[:2],
                transforms.RandomCrop(recipe.img_size, padding=recipe.crop_padding),
                transforms.RandomHorizontalFlip(recipe.hflip),
                transforms.RandomVerticalFlip(recipe.vflip),
            ]
        )
    return transforms.Compose([*crop.transforms, *color.transforms, *final.transforms])


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
