"""What a recipe on real-valued targets may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etfhead.experiment.arm_checks import is_oriented
from etfhead.experiment.field_error import FieldError
from etfhead.experiment.loss_names import REGRESSION_LOSSES

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Arm, Recipe

__all__ = ["check_regression"]

_HEADS = ("linear", "regression")
_EMBEDDED = ("regression_linnerud", "regression_diabetes", "regression_synthetic")
# Of images with classes; off at these values.
_OF_CLASSES = {
    "mixup": 0.0,
    "cutmix": 0.0,
    "smoothing": 0.0,
    "redraw": False,
    "train_images_per_set": None,
    "eval_images_per_set": None,
}


def check_regression(recipe: Recipe) -> None:
    """Refuse heads, losses and knobs that know classes alone.

    Args:
        recipe: Its data set has real-valued targets.

    Raises:
        FieldError: If one is given.
    """
    for name, arm in recipe.arms.items():
        _check_arm(name, arm, recipe.dataset)
    if recipe.dataset in _EMBEDDED and recipe.data_root is not None:
        raise FieldError(("data_root",), f"dataset: {recipe.dataset} reads no file; remove it")
    if recipe.download:
        raise FieldError(("download",), f"dataset: {recipe.dataset} cannot be downloaded; remove it")
    for key, off in _OF_CLASSES.items():
        if getattr(recipe, key) != off:
            raise FieldError(
                (key,), f"of classes, and dataset: {recipe.dataset} has real-valued targets; remove it"
            )
    if recipe.primary_metric not in (None, "r2"):
        raise FieldError(
            ("primary_metric",), f"dataset: {recipe.dataset} has real-valued targets: write r2 or null"
        )


def _check_arm(name: str, arm: Arm, dataset: str) -> None:
    if arm.head not in _HEADS:
        raise FieldError(
            ("arms", name, "head"),
            f"{arm.head} is of classes and dataset: {dataset} has real-valued targets; write "
            f"{' or '.join(_HEADS)}",
        )
    if arm.loss not in REGRESSION_LOSSES:
        raise FieldError(
            ("arms", name, "loss"),
            f"{arm.loss} is of classes and dataset: {dataset} has real-valued targets; write "
            f"{' or '.join(REGRESSION_LOSSES)}",
        )
    if is_oriented(arm):
        raise FieldError(("arms", name, "orient"), "class means need classes; remove it on regression data")
    if arm.posthoc is not None:
        raise FieldError(("arms", name, "posthoc"), "class shares need classes; remove it on regression data")
    options = dict(arm.loss_options or {})
    whiten = options.pop("whiten", False)
    if options or not isinstance(whiten, bool):
        raise FieldError(
            ("arms", name, "loss_options"),
            f"loss: {arm.loss} has whiten: true or false, got {arm.loss_options}",
        )
