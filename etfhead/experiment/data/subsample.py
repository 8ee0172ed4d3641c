"""The long tail that a recipe asks for, taken from the training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.long_tail import class_order, long_tail_counts, long_tail_indices
from etfhead.experiment.data.splits import Indices
from etfhead.experiment.recipe import Recipe

__all__ = ["subsample", "tail_note"]


def subsample(
    recipe: Recipe, labels: Indices, class_names: Sequence[str], seed: int
) -> tuple[Indices, dict[str, Any]]:
    """Positions of the training images that stay, and what became of each class for ``data.json``.

    Without ``imbalance_max`` the largest class has as many images as the smallest class of the data, so that
    every class can be the largest, and all seeds train on equally many images whichever is drawn.

    Args:
        recipe: Its ``imbalance_`` fields.
        labels: (n,) classes of the training split.
        class_names: K names.
        seed: Chooses the images and, with ``imbalance_order: drawn``, which class is rare.

    Raises:
        DataError: If the classes are too few or too small for it.
    """
    if recipe.imbalance_factor is None:
        return np.arange(len(labels)), {}
    K = len(class_names)
    pool = np.bincount(labels, minlength=K)
    largest = int(pool.min()) if recipe.imbalance_max is None else recipe.imbalance_max
    try:
        counts = long_tail_counts(K, largest, recipe.imbalance_factor, recipe.imbalance_kind)
    except ValueError as error:
        raise DataError(f"imbalance_factor: {error}") from error
    order = class_order(K, recipe.imbalance_order, seed)
    for rank, k in enumerate(order):
        if pool[k] < counts[rank]:
            raise DataError(
                f"imbalance_max: class {class_names[k]!r} has {pool[k]} training images and would need "
                f"{counts[rank]}; lower it, or leave it null for {pool.min()}"
            )
    kept = long_tail_indices(labels, counts, order, seed)
    facts = {
        "factor": recipe.imbalance_factor,
        "kind": recipe.imbalance_kind,
        "largest": largest,
        "order": recipe.imbalance_order,
        "images": {class_names[k]: counts[rank] for rank, k in enumerate(order)},
    }
    return kept, {"imbalance": facts}


def tail_note(info: Mapping[str, Any]) -> str:
    """One sentence for the report, of what :func:`subsample` says.

    >>> facts = {"factor": 100.0, "kind": "step", "largest": 500, "order": "drawn", "images": {}}
    >>> tail_note({"imbalance": facts})
    'long tail: step, from 500 images a class to 1 / 100 of it, which classes are rare is drawn; ...'
    """
    facts = info["imbalance"]
    which = "is drawn" if facts["order"] == "drawn" else "is their order in the data"
    return (
        f"long tail: {facts['kind']}, from {facts['largest']} images a class to 1 / {facts['factor']:g} of "
        f"it, which classes are rare {which}; validation and test keep all their images, so the validation "
        "split that chooses the best epoch has more images of rare classes than training"
    )
