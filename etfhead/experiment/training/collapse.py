"""When neural collapse is measured during a training, and on which images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Subset

from etfhead.experiment.data import Splits
from etfhead.experiment.data.rng import hash_keys
from etfhead.experiment.data.splits import stratified_limit
from etfhead.experiment.recipe import Recipe

__all__ = ["collapse_is_due", "collapse_subset", "collapse_time"]

_REGRESSION = 43  # a hash stream of its own


def collapse_is_due(recipe: Recipe, epochs_done: int) -> bool:
    """Whether to measure after so many epochs: before training, every n epochs, and at the end."""
    return recipe.collapse_every > 0 and (
        epochs_done % recipe.collapse_every == 0 or epochs_done == recipe.epochs
    )


def collapse_subset(recipe: Recipe, splits: Splits) -> Subset[Any]:
    """The training images that are measured, without augmentation: the same for every arm and seed."""
    plain: Any = splits.plain
    wanted = max(recipe.collapse_images, 2 * splits.num_classes)
    if splits.targets is not None:
        order = np.argsort(hash_keys(np.arange(len(plain)), recipe.split_seed, _REGRESSION), kind="stable")
        return Subset(plain, np.sort(order[:wanted]).tolist())
    labels = np.asarray(plain.labels, dtype=np.int64)
    indices = stratified_limit(labels, wanted, recipe.split_seed, splits.num_classes)
    return Subset(plain, indices.tolist())


def collapse_time(
    initial: Mapping[str, Any] | None, records: Iterable[Mapping[str, Any]], key: str = "collapse_time"
) -> float | None:
    """Seconds that all measurements of a training took, in rows by their key; None if there were none."""
    times = [row[key] for row in (initial or {}, *records) if key in row]
    return sum(times) if times else None
