"""From a recipe's data set to what was found on disk."""

from __future__ import annotations

from typing import Any

from etfhead.experiment.data.cifar import read_cifar
from etfhead.experiment.data.digits import read_digits
from etfhead.experiment.data.fashion_mnist import read_fashion_mnist
from etfhead.experiment.data.folder import read_image_folder
from etfhead.experiment.data.images import Source
from etfhead.experiment.data.multilabel_generated import read_multilabel_digits, read_multilabel_fashion
from etfhead.experiment.data.multilabel_npz import read_multilabel_npz
from etfhead.experiment.data.multilabel_parts import MultiLabelParts
from etfhead.experiment.data.multilabel_synthetic import read_multilabel_synthetic
from etfhead.experiment.data.npz import read_npz
from etfhead.experiment.data.regression_embedded import (
    read_diabetes,
    read_linnerud,
    read_regression_synthetic,
)
from etfhead.experiment.data.regression_npz import read_regression_npz
from etfhead.experiment.data.regression_parts import RegressionParts
from etfhead.experiment.data.synthetic import read_synthetic
from etfhead.experiment.recipe import Recipe

__all__ = ["read_multilabel", "read_ood", "read_regression", "read_source"]


def read_source(recipe: Recipe) -> Source:
    """Read a data set with one class an image."""
    return _read(recipe, recipe.dataset, recipe.data_root)


def read_ood(recipe: Recipe) -> Source | None:
    """Read the data set that test images are told from; None without one."""
    return None if recipe.ood_dataset is None else _read(recipe, recipe.ood_dataset, recipe.ood_root)


def _read(recipe: Recipe, dataset: str, root: str | None) -> Source:
    download = recipe.download
    match dataset:
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
            return read_image_folder(root, recipe.unreadable_images)
        case "npz":
            return read_npz(root)
    raise ValueError(f"dataset {dataset!r} is not known; see Recipe.dataset for the choices")


def read_multilabel(recipe: Recipe) -> MultiLabelParts:
    """Read a data set whose images carry any number of labels."""
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


def read_regression(recipe: Recipe) -> RegressionParts:
    """Read a data set with real-valued targets."""
    split: dict[str, Any] = {"val_fraction": recipe.val_fraction, "split_seed": recipe.split_seed}
    match recipe.dataset:
        case "regression_linnerud":
            return read_linnerud(**split)
        case "regression_diabetes":
            return read_diabetes(**split)
        case "regression_npz":
            return read_regression_npz(recipe.data_root, **split)
        case "regression_synthetic":
            return read_regression_synthetic(recipe.in_chans, **split)
    raise ValueError(f"dataset {recipe.dataset!r} is not known; see Recipe.dataset for the choices")
