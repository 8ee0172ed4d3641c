"""Which fields of label noise and of chosen classes go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etfhead.experiment.field_error import FieldError
from etfhead.experiment.task import is_multilabel, is_regression

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Recipe

__all__ = ["check_noise"]

_DRAWN = ("noise_rate", "noise_include_true", "noise_exact", "noise_flips")
_FILES = ("labels_file", "clean_labels_file")
_OWNERS = {
    "noise_include_true": ("symmetric",),
    "noise_flips": ("asymmetric",),
    "noise_exact": ("symmetric", "asymmetric", "pairflip"),
}


def check_noise(recipe: Recipe) -> None:
    """Refuse a field that would be ignored, and noise on targets that are not one class an image.

    Raises:
        FieldError: If two fields contradict each other.
    """
    kind = recipe.noise_kind
    given = [key for key in ("noise_kind", *_FILES, "classes") if getattr(recipe, key) is not None]
    if given and (is_multilabel(recipe.dataset) or is_regression(recipe.dataset)):
        raise FieldError(
            (given[0],), f"needs one class an image, and dataset: {recipe.dataset} has not; remove it"
        )
    for key in _DRAWN:
        if not getattr(recipe, key):
            continue
        if kind is None:
            raise FieldError((key,), "has no effect without noise_kind; write noise_kind or remove it")
        if kind not in (owners := _OWNERS.get(key, (kind,))):
            raise FieldError((key,), f"is of noise_kind: {' or '.join(owners)}, not of {kind}; remove it")
    for key in _FILES:
        if getattr(recipe, key) is None:
            continue
        if kind is not None:
            raise FieldError((key,), "excludes noise_kind: labels come from a file or are drawn; keep one")
        if recipe.classes is not None:
            raise FieldError((key,), "numbers all classes of the data set; remove classes")
    if recipe.redraw and kind is None and recipe.imbalance_factor is None:
        raise FieldError(
            ("redraw",),
            "has no effect without noise_kind or imbalance_factor: nothing else is drawn; remove it",
        )
    _check_classes(recipe)


def _check_classes(recipe: Recipe) -> None:
    classes = recipe.classes
    if classes is None:
        return
    if len(classes) < 2:
        raise FieldError(("classes",), f"expected at least two classes, got {list(classes)}")
    if len(set(classes)) < len(classes):
        raise FieldError(("classes",), f"expected different classes, got {list(classes)}")
