"""How a split's images become tensors: out of prepared bytes where that is possible, else by Pillow."""

from __future__ import annotations

from etfhead.experiment.data.datasets import Fetch
from etfhead.experiment.data.fetch import KeyedCropFlip, PillowFetch, PreparedFetch, prepare
from etfhead.experiment.data.images import ArrayImages, Images
from etfhead.experiment.data.statistics import Normalization
from etfhead.experiment.data.transforms import eval_transform, train_transform
from etfhead.experiment.recipe import Recipe

__all__ = ["eval_fetch", "plain_fetch", "train_fetch"]


def train_fetch(recipe: Recipe, images: Images, norm: Normalization, mode: str) -> Fetch:
    """With the recipe's augmentation."""
    crop_flip_only = recipe.crop_padding > 0 and not (recipe.aa or recipe.color_jitter or recipe.reprob)
    if isinstance(images, ArrayImages) and (recipe.no_aug or crop_flip_only):
        augment = None if recipe.no_aug else KeyedCropFlip(recipe.crop_padding, recipe.hflip, recipe.vflip)
        return PreparedFetch(prepare(images, recipe, train=True), norm, augment)
    return PillowFetch(images, mode, train_transform(recipe, norm), random=not recipe.no_aug)


def eval_fetch(recipe: Recipe, images: Images, norm: Normalization, mode: str) -> Fetch:
    """Of validation and test images."""
    if isinstance(images, ArrayImages):
        return PreparedFetch(prepare(images, recipe, train=False), norm)
    return PillowFetch(images, mode, eval_transform(recipe, norm), random=False)


def plain_fetch(recipe: Recipe, images: Images, norm: Normalization, mode: str, train: Fetch) -> Fetch:
    """Of training images without augmentation, beside their ``train`` fetch."""
    if isinstance(train, PreparedFetch):
        return PreparedFetch(train.prepared, norm)  # the same bytes: a second copy could be gigabytes
    return PillowFetch(images, mode, eval_transform(recipe, norm), random=False)
