"""Which out-of-distribution data go with which data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etfhead.experiment.field_error import FieldError
from etfhead.experiment.task import is_multilabel, is_regression

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Recipe

__all__ = ["DOWNLOADED", "check_ood"]

DOWNLOADED = ("fashion_mnist", "cifar10", "cifar100")
_NO_FOLDER = ("digits", "synthetic")
_FROM_A_PATH = {"image_folder": "folder", "npz": "file"}


def check_ood(recipe: Recipe) -> None:
    """Refuse outliers where there is nothing to tell them from, and those that are the data themselves.

    Raises:
        FieldError: If two fields contradict each other.
    """
    dataset, root = recipe.ood_dataset, recipe.ood_root
    if dataset is None:
        if root is not None:
            raise FieldError(
                ("ood_root",), "has no effect without ood_dataset; write ood_dataset or remove it"
            )
        return
    if is_multilabel(recipe.dataset) or is_regression(recipe.dataset):
        raise FieldError(
            ("ood_dataset",), f"needs one class an image, and dataset: {recipe.dataset} has not; remove it"
        )
    if dataset in _NO_FOLDER and root is not None:
        raise FieldError(("ood_root",), f"ood_dataset: {dataset} reads no folder; remove it")
    if dataset in _FROM_A_PATH and root is None:
        raise FieldError(
            ("ood_root",), f"ood_dataset: {dataset} needs the {_FROM_A_PATH[dataset]}'s path here"
        )
    if dataset == recipe.dataset and (dataset not in _FROM_A_PATH or root == recipe.data_root):
        raise FieldError(
            ("ood_dataset",), f"expected another data set than the one trained on, got {dataset}"
        )
