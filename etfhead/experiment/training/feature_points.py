"""Features of training and test images at the end of a training, as points of a plane in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from etfhead.experiment.data import make_eval_loader
from etfhead.experiment.data.splits import stratified_limit
from etfhead.experiment.data.true_labels import WithTrueLabels
from etfhead.experiment.files import atomic_write
from etfhead.experiment.training.feature_plane import feature_plane
from etfhead.experiment.training.layer_features import layer_features
from etfhead.experiment.training.memorization import noisy_subset
from etfhead.metrics.last_layer_input import find_last_layer, unwrapped

if TYPE_CHECKING:
    from etfhead.experiment.data import Splits
    from etfhead.experiment.recipe import Recipe

__all__ = ["FEATURES_FILE", "write_feature_points"]

FEATURES_FILE = "features.npz"


def write_feature_points(model: nn.Module, recipe: Recipe, splits: Splits, folder: Path) -> Path | None:
    """Write the points of :func:`~etfhead.experiment.training.feature_plane.feature_plane`, if there are any.

    Arrays of the file: ``train`` (n, 2), ``observed`` and ``true`` (n,) of the images that memorization is
    measured on; ``test`` (m, 2) and ``test_true`` (m,) of as many test images; ``names`` of both axes and
    ``boundary`` (3,), or (0,) where there is none.

    Args:
        model: With the weights of the last epoch, not wrapped.
        recipe: How many images, batch size.
        splits: With true labels beside observed ones.
        folder: ``arms/<arm>/seed<k>``.

    Returns:
        Path of the file, or None.
    """
    assert splits.true_train is not None  # noqa: S101 - only noisy labels come here
    model = unwrapped(model)
    layer = find_last_layer(model)[1]
    plain, test = splits.plain, splits.test
    observed = np.asarray(plain.labels, dtype=np.int64)  # type: ignore[attr-defined]
    at = noisy_subset(observed, splits.true_train, recipe.collapse_images, recipe.split_seed)
    tested = np.asarray(test.labels, dtype=np.int64)  # type: ignore[attr-defined]
    limit = max(recipe.collapse_images, splits.num_classes)
    some = stratified_limit(tested, limit, recipe.split_seed, splits.num_classes)
    features, (seen, true) = _gather(
        model, layer, Subset(WithTrueLabels(plain, splits.true_train), at.tolist()), recipe
    )
    plane = feature_plane(features, layer) if len(features) else None
    if plane is None:
        return None
    test_features, (test_true,) = _gather(model, layer, Subset(test, some.tolist()), recipe)
    arrays: dict[str, Any] = {
        "train": plane.points(features).numpy(),
        "observed": seen.numpy(),
        "true": true.numpy(),
        "test": plane.points(test_features).numpy(),
        "test_true": test_true.numpy(),
        "names": np.array(plane.names),
        "boundary": np.array(plane.boundary or ()),
    }
    path = folder / FEATURES_FILE
    atomic_write(path, lambda file: np.savez_compressed(file, **arrays))
    return path


def _gather(
    model: nn.Module, layer: nn.Module, dataset: Any, recipe: Recipe
) -> tuple[Tensor, tuple[Tensor, ...]]:
    rows: list[Tensor] = []
    labels: list[list[Tensor]] = []

    def see(features: Tensor, _scores: Tensor, given: list[Tensor]) -> None:
        rows.append(features.float().cpu())
        labels.append([each.cpu() for each in given])

    layer_features(model, layer, make_eval_loader(dataset, recipe.batch_size), see)
    return torch.cat(rows), tuple(torch.cat(column) for column in zip(*labels, strict=True))
