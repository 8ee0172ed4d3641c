"""From tables or images with real-valued targets to the splits of a training."""

from __future__ import annotations

from typing import Any

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.choose_fetch import eval_fetch, plain_fetch, train_fetch
from etfhead.experiment.data.datasets import Fetch
from etfhead.experiment.data.facts import data_facts
from etfhead.experiment.data.images import ArrayImages
from etfhead.experiment.data.regression_datasets import (
    RegressionEvalDataset,
    RegressionTrainDataset,
    TableFetch,
)
from etfhead.experiment.data.regression_parts import RegressionParts, Samples
from etfhead.experiment.data.sets import Splits
from etfhead.experiment.data.statistics import choose_normalization
from etfhead.experiment.data.target_scaling import column_statistics, fit_scaling
from etfhead.experiment.recipe import Recipe

__all__ = ["regression_splits"]


def regression_splits(recipe: Recipe, parts: RegressionParts) -> Splits:
    """Splits whose targets are standardised by the training split, as the columns of a table are.

    Args:
        recipe: Training limit, and for images size and augmentation.
        parts: The data.

    Raises:
        DataError: If a training target is constant, or ``img_size`` or ``in_chans`` do not fit a table.
    """
    parts = parts.limited(recipe.train_limit, recipe.split_seed)
    scaling = fit_scaling(parts.train.targets, parts.target_names)
    fetches, inputs = (_of_table if parts.is_table else _of_images)(recipe, parts)
    split = [part.targets for part in (parts.train, parts.train, parts.val, parts.test)]
    targets = [scaling.standardised(values) for values in split]
    kinds = (RegressionTrainDataset, RegressionEvalDataset, RegressionEvalDataset, RegressionEvalDataset)
    train, plain, val, test = (
        kind(fetch, values) for kind, fetch, values in zip(kinds, fetches, targets, strict=True)
    )
    info = data_facts(
        recipe,
        root=parts.root,
        sizes=(len(train), len(val), len(test)),
        duplicates=parts.duplicates,
        digest=parts.digest(),
        notes=parts.notes,
        more={**inputs, "target_mean": scaling.mean.tolist(), "target_std": scaling.std.tolist()},
    )
    return Splits(
        train=train,
        plain=plain,
        val=val,
        test=test,
        num_classes=len(parts.target_names),
        class_names=parts.target_names,
        class_counts=(),
        info=info,
        targets=scaling,
    )


def _of_table(recipe: Recipe, parts: RegressionParts) -> tuple[list[Fetch], dict[str, Any]]:
    columns = parts.train.inputs.shape[1]
    for key, wanted in (("in_chans", columns), ("img_size", 1)):
        if (given := getattr(recipe, key)) != wanted:
            raise DataError(
                f"{key}: {parts.root} is a table of {columns} columns, which a model gets as images of one "
                f"pixel with a channel a column: write {key}: {wanted}, got {given}"
            )
    if recipe.mean is not None or not recipe.no_aug:
        key = "no_aug" if recipe.mean is None else "mean"
        raise DataError(f"{key}: of images alone, and {parts.root} is a table; leave it at its default")
    mean, std = column_statistics(parts.train.inputs)
    train, val, test = (TableFetch(part.inputs, mean, std) for part in (parts.train, parts.val, parts.test))
    return [train, train, val, test], {"columns": columns, "normalization_from": "training split"}


def _of_images(recipe: Recipe, parts: RegressionParts) -> tuple[list[Fetch], dict[str, Any]]:
    if recipe.in_chans not in (1, 3):
        raise DataError(
            f"in_chans: {parts.root} holds images: write 1 (grey) or 3 (RGB), got {recipe.in_chans}"
        )
    train, val, test = (_images(part, recipe.in_chans) for part in (parts.train, parts.val, parts.test))
    norm = choose_normalization(recipe, train)
    mode = "L" if recipe.in_chans == 1 else "RGB"
    fetch = train_fetch(recipe, train, norm, mode)
    of_eval = (eval_fetch(recipe, images, norm, mode) for images in (val, test))
    return [fetch, plain_fetch(recipe, train, norm, mode, fetch), *of_eval], norm.facts()


def _images(part: Samples, in_chans: int) -> ArrayImages:
    images = ArrayImages(part.inputs, np.zeros(len(part), dtype=np.int64))
    return images.gray() if in_chans == 1 else images
