"""One class, several labels or real-valued targets: the data set says which, and that the primary metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from etfhead.experiment.recipe import Recipe

__all__ = [
    "COMPOSED",
    "FROM_A_PATH",
    "METRIC_NAMES",
    "is_multilabel",
    "is_regression",
    "primary_metric",
    "stand_in_targets",
]

METRIC_NAMES = {"top1": "accuracy", "exact_match": "exact match", "map": "mAP", "r2": "R²"}

# Images composed of others: how many of each label set is a knob.
COMPOSED = ("multilabel_digits", "multilabel_fashion")

# Data that only their path names.
FROM_A_PATH = ("image_folder", "npz", "multilabel_npz", "regression_npz")


def is_multilabel(dataset: str) -> bool:
    """Whether the images of a data set carry any number of labels.

    >>> is_multilabel("multilabel_digits"), is_multilabel("digits")
    (True, False)
    """
    return dataset.startswith("multilabel_")


def is_regression(dataset: str) -> bool:
    """Whether a data set has real-valued targets.

    >>> is_regression("regression_linnerud"), is_regression("digits")
    (True, False)
    """
    return dataset.startswith("regression_")


def primary_metric(recipe: Recipe | Mapping[str, Any]) -> str:
    """The metric that chooses the best epoch and that the report is about.

    ``top1`` for one class an image; for label sets ``exact_match`` where they are composed in equal numbers,
    and ``map`` on real images, where few sets occur more than once; ``r2`` for real-valued targets.

    Args:
        recipe: A recipe, or the mapping that its YAML holds.

    >>> primary_metric({"dataset": "multilabel_npz"}), primary_metric({"dataset": "digits"})
    ('map', 'top1')
    """
    fields = recipe if isinstance(recipe, Mapping) else vars(recipe)
    dataset = str(fields.get("dataset"))
    if fields.get("primary_metric") is not None:
        return str(fields["primary_metric"])
    if is_regression(dataset):
        return "r2"
    if not is_multilabel(dataset):
        return "top1"
    return "map" if dataset == "multilabel_npz" else "exact_match"


def stand_in_targets(recipe: Recipe, count: int, num_classes: int) -> Tensor:
    """Targets of the task's form, for steps that train nothing: classes in turn, one label each.

    Args:
        recipe: Gives the task.
        count: B.
        num_classes: K.

    Returns:
        Tensor: Classes (B,), int64; or multi-hot rows (B, K), which real-valued targets may be too, float32.
    """
    import torch

    classes = torch.arange(count) % num_classes
    if not (is_multilabel(recipe.dataset) or is_regression(recipe.dataset)):
        return classes
    return torch.nn.functional.one_hot(classes, num_classes).float()
