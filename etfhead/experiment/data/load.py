"""From a recipe to training, validation and test splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from etfhead.errors import DataError
from etfhead.experiment.data.carve import carve
from etfhead.experiment.data.cifar import read_cifar
from etfhead.experiment.data.datasets import EvalDataset, Fetch, TrainDataset
from etfhead.experiment.data.digits import read_digits
from etfhead.experiment.data.fashion_mnist import read_fashion_mnist
from etfhead.experiment.data.fetch import KeyedCropFlip, PillowFetch, PreparedFetch, prepare
from etfhead.experiment.data.folder import read_image_folder
from etfhead.experiment.data.images import ArrayImages, Images, Source
from etfhead.experiment.data.multilabel_datasets import MultiLabelEvalDataset, MultiLabelTrainDataset
from etfhead.experiment.data.multilabel_generated import read_multilabel_digits, read_multilabel_fashion
from etfhead.experiment.data.multilabel_npz import read_multilabel_npz
from etfhead.experiment.data.multilabel_parts import MultiLabelParts
from etfhead.experiment.data.multilabel_synthetic import read_multilabel_synthetic
from etfhead.experiment.data.npz import read_npz
from etfhead.experiment.data.statistics import Normalization, choose_normalization
from etfhead.experiment.data.synthetic import read_synthetic
from etfhead.experiment.data.transforms import eval_transform, train_transform
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.task import is_multilabel

__all__ = ["Splits", "load_data"]


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set; a label is a class, or on multi-label data a float row (K,) of 0 and 1.

    Args:
        train: ``train[i, key]`` is ``(image, label)``; the key alone decides the item's augmentation.
        plain: ``plain[i]``, the same images without augmentation.
        val: ``val[i]``, carved from the training part.
        test: ``test[i]``.
        num_classes: K.
        class_names: K names.
        class_counts: Training images of each class, or with each label.
        info: JSON-able facts for the run folder: sizes, root, duplicates removed, normalisation, digest.
    """

    train: Dataset[Any]
    plain: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    num_classes: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    info: dict[str, Any]


def _read(recipe: Recipe) -> Source:
    root, download = recipe.data_root, recipe.download
    match recipe.dataset:
        case "digits":
            return read_digits()
        case "synthetic":
            return read_synthetic(recipe.img_size, recipe.in_chans)
        case "fashion_mnist":
            return read_fashion_mnist(root, download)
        case "cifar10":
            return read_cifar(10, root, download)
        case "cifar100":
            return read_cifar(100, root, download)
        case "image_folder":
            return read_image_folder(root)
        case "npz":
            return read_npz(root)
    raise ValueError(f"dataset {recipe.dataset!r} is not known; see Recipe.dataset for the choices")


def _in_channels(source: Source, in_chans: int) -> Source:
    if in_chans == 1 and isinstance(source.train, ArrayImages) and isinstance(source.test, ArrayImages):
        return replace(source, train=source.train.gray(), test=source.test.gray())
    return source


def _train_fetch(recipe: Recipe, images: Images, norm: Normalization, mode: str) -> Fetch:
    crop_flip_only = recipe.crop_padding > 0 and not (recipe.aa or recipe.color_jitter or recipe.reprob)
    if isinstance(images, ArrayImages) and (recipe.no_aug or crop_flip_only):
        augment = None if recipe.no_aug else KeyedCropFlip(recipe.crop_padding, recipe.hflip, recipe.vflip)
        return PreparedFetch(prepare(images, recipe, train=True), norm, augment)
    return PillowFetch(images, mode, train_transform(recipe, norm), random=not recipe.no_aug)


def _eval_fetch(recipe: Recipe, images: Images, norm: Normalization, mode: str) -> Fetch:
    if isinstance(images, ArrayImages):
        return PreparedFetch(prepare(images, recipe, train=False), norm)
    return PillowFetch(images, mode, eval_transform(recipe, norm), random=False)


def _plain_fetch(recipe: Recipe, images: Images, norm: Normalization, mode: str, train: Fetch) -> Fetch:
    if isinstance(train, PreparedFetch):
        return PreparedFetch(train.prepared, norm)  # the same bytes: a second copy could be gigabytes
    return PillowFetch(images, mode, eval_transform(recipe, norm), random=False)


def load_data(recipe: Recipe) -> Splits:
    """Read a data set, carve the validation split from its training part, and build the transforms.

    The splits depend on the data, ``val_fraction``, ``split_seed`` and ``train_limit`` alone; every arm
    and every seed of a comparison sees the same ones.

    Args:
        recipe: The data and augmentation fields are used, and the model's only for its normalisation.

    Raises:
        DataError: If the data are missing, damaged, inconsistent or too few.
        ValueError: If timm does not understand ``aa``.
    """
    try:
        if is_multilabel(recipe.dataset):
            return _multilabel_splits(recipe, _read_multilabel(recipe))
        source = _read(recipe)
    except OSError as error:
        raise DataError(f"cannot read {recipe.dataset} (data_root={recipe.data_root!r}): {error}") from error
    limit = recipe.train_limit
    carved = carve(source, val_fraction=recipe.val_fraction, seed=recipe.split_seed, train_limit=limit)
    source = _in_channels(source, recipe.in_chans)
    norm = choose_normalization(recipe, source.train)
    mode = "L" if recipe.in_chans == 1 else "RGB"
    train, val = source.train.subset(carved.train), source.train.subset(carved.val)
    counts = np.bincount(train.labels, minlength=len(source.class_names)).tolist()
    info = {
        "dataset": recipe.dataset,
        "root": source.root,
        "sizes": {"train": len(train), "val": len(val), "test": len(source.test)},
        "val_fraction": recipe.val_fraction,
        "split_seed": recipe.split_seed,
        "train_limit": recipe.train_limit,
        "duplicates": carved.duplicates,
        "mean": list(norm.mean),
        "std": list(norm.std),
        "normalization_from": norm.origin,
        "digest": carved.digest,
        "notes": list(source.notes),
    }
    fetch = _train_fetch(recipe, train, norm, mode)
    return Splits(
        train=TrainDataset(fetch, train.labels),
        plain=EvalDataset(_plain_fetch(recipe, train, norm, mode, fetch), train.labels),
        val=EvalDataset(_eval_fetch(recipe, val, norm, mode), val.labels),
        test=EvalDataset(_eval_fetch(recipe, source.test, norm, mode), source.test.labels),
        num_classes=len(source.class_names),
        class_names=source.class_names,
        class_counts=tuple(counts),
        info=info,
    )


def _read_multilabel(recipe: Recipe) -> MultiLabelParts:
    split: dict[str, Any] = {"val_fraction": recipe.val_fraction, "split_seed": recipe.split_seed}
    sets = {key: getattr(recipe, key) for key in ("train_images_per_set", "eval_images_per_set")}
    sets = {key: value for key, value in sets.items() if value is not None}
    match recipe.dataset:
        case "multilabel_digits":
            return read_multilabel_digits(**split, **sets)
        case "multilabel_fashion":
            return read_multilabel_fashion(recipe.data_root, recipe.download, **split, **sets)
        case "multilabel_npz":
            return read_multilabel_npz(recipe.data_root, **split)
        case "multilabel_synthetic":
            return read_multilabel_synthetic(recipe.img_size)
    raise ValueError(f"dataset {recipe.dataset!r} is not known; see Recipe.dataset for the choices")


def _multilabel_splits(recipe: Recipe, parts: MultiLabelParts) -> Splits:
    parts = parts.gray() if recipe.in_chans == 1 else parts
    norm = choose_normalization(recipe, parts.train)
    parts = parts.limited(recipe.train_limit, recipe.split_seed)
    mode = "L" if recipe.in_chans == 1 else "RGB"
    train, val, test = parts.train, parts.val, parts.test
    info = {
        "dataset": recipe.dataset,
        "root": parts.root,
        "sizes": {"train": len(train), "val": len(val), "test": len(test)},
        "val_fraction": recipe.val_fraction,
        "split_seed": recipe.split_seed,
        "train_limit": recipe.train_limit,
        "train_images_with_0_1_2_labels": list(parts.set_sizes),
        "duplicates": parts.duplicates,
        "mean": list(norm.mean),
        "std": list(norm.std),
        "normalization_from": norm.origin,
        "digest": parts.digest(),
        "notes": list(parts.notes),
    }
    fetch = _train_fetch(recipe, train, norm, mode)
    return Splits(
        train=MultiLabelTrainDataset(fetch, train.labels),
        plain=MultiLabelEvalDataset(_plain_fetch(recipe, train, norm, mode, fetch), train.labels),
        val=MultiLabelEvalDataset(_eval_fetch(recipe, val, norm, mode), val.labels),
        test=MultiLabelEvalDataset(_eval_fetch(recipe, test, norm, mode), test.labels),
        num_classes=len(parts.class_names),
        class_names=parts.class_names,
        class_counts=parts.label_counts,
        info=info,
    )
