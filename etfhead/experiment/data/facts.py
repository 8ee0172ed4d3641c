"""What ``data.json`` says of any data: where they came from, how they were split, and what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.data.splits import PARTS
from etfhead.experiment.recipe import Recipe

__all__ = ["data_facts"]


def data_facts(
    recipe: Recipe,
    *,
    root: str,
    sizes: Sequence[int],
    duplicates: Mapping[str, int],
    digest: str,
    notes: Sequence[str],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The facts of a run's data, JSON-able.

    Args:
        recipe: Names the data and how they are split.
        root: Where they came from.
        sizes: Samples of the training, validation and test splits.
        duplicates: Counts of what occurred in more than one split.
        digest: Changes with any sample, label or split.
        notes: What a reader of the report should know.
        more: Facts of this kind of data.
    """
    return {
        "dataset": recipe.dataset,
        "root": root,
        "sizes": dict(zip(PARTS, sizes, strict=True)),
        "val_fraction": recipe.val_fraction,
        "split_seed": recipe.split_seed,
        "train_limit": recipe.train_limit,
        "duplicates": dict(duplicates),
        **more,
        "digest": digest,
        "notes": list(notes),
    }
