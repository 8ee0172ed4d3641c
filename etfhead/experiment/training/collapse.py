"""When neural collapse is measured during a training, and on which images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Subset

from etfhead.experiment.data import Splits
from etfhead.experiment.data.splits import stratified_limit
from etfhead.experiment.recipe import Recipe

__all__ = ["collapse_is_due", "collapse_subset", "collapse_time"]


def collapse_is_due(recipe: Recipe, epochs_done: int) -> bool:
    """Whether to measure after so many epochs: before training, every n epochs, and at the end."""
    return recipe.collapse_every > 0 and (
        epochs_done % recipe.collapse_every == 0 or epochs_done == recipe.epochs
    )


def collapse_subset(recipe: Recipe, splits: Splits) -> Subset[Any]:
    """The training images that are measured, without augmentation: the same for every arm and seed."""
    plain: Any = splits.plain
    wanted = max(recipe.collapse_images, 2 * splits.num_classes)
    labels = np.asarray(plain.labels, dtype=np.int64)
    indices = stratified_limit(labels, wanted, recipe.split_seed, splits.num_classes)
    return Subset(plain, indices.tolist())


def collapse_time(initial: Mapping[str, Any] | None, records: Iterable[Mapping[str, Any]]) -> float | None:
    """Seconds that all measurements of a training took; None if there were none."""
    times = [row["collapse_time"] for row in (initial or {}, *records) if "collapse_time" in row]
    return sum(times) if times else None
