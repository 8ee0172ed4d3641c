"""Which images of a run memorization and dilation are measured on, and when the test set is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from etfhead.experiment.data.splits import Indices
from etfhead.experiment.data.true_labels import WithTrueLabels
from etfhead.experiment.training.shares import Loader, eval_share

if TYPE_CHECKING:
    from accelerate import Accelerator

    from etfhead.experiment.data import Splits
    from etfhead.experiment.recipe import Recipe
    from etfhead.experiment.training.memorization import MemorizationMonitor
    from etfhead.experiment.training.session import Session

__all__ = ["build_memorization_monitor", "dilation_of", "show_features", "true_share"]


def build_memorization_monitor(
    model: nn.Module, recipe: Recipe, splits: Splits, accelerator: Accelerator
) -> MemorizationMonitor | None:
    """The monitor of a run on noisy labels; None where labels are as good as known, or nothing is measured.

    Held-out images are those of validation, with their true labels: the test set has no say before the end.

    Args:
        model: The one whose accuracy counts, not wrapped.
        recipe: When and on how many images.
        splits: The data.
        accelerator: Gives this process's share.
    """
    if not recipe.collapse_every or splits.true_train is None or splits.true_val is None:
        return None
    from etfhead.experiment.training.memorization import MemorizationMonitor, noisy_subset

    plain: Any = splits.plain
    observed = np.asarray(plain.labels, dtype=np.int64)
    at = noisy_subset(observed, splits.true_train, recipe.collapse_images, recipe.split_seed)
    some: Any = Subset(WithTrueLabels(plain, splits.true_train), at.tolist())
    held_out: Any = WithTrueLabels(splits.val, splits.true_val)
    return MemorizationMonitor(
        model,
        eval_share(some, recipe, accelerator),
        eval_share(held_out, recipe, accelerator),
        splits.num_classes,
    )


def dilation_of(
    model: nn.Module, share: Loader, num_classes: int, tick: Callable[[int], None]
) -> dict[str, float]:
    """Dilation of the test images: ``md_dilation`` and ``md_dilation_relative``.

    Args:
        model: Any weights of the arm's model.
        share: This process's share of the test split.
        num_classes: K.
        tick: Called with the number of images after each batch; may raise to stop.
    """
    from etfhead.experiment.training.memorization import MemorizationMonitor

    figures = MemorizationMonitor(model, None, share, num_classes).measure(tick=tick)
    return {key: figures[key] for key in ("md_dilation", "md_dilation_relative") if key in figures}


def true_share(true: Indices | None, accelerator: Accelerator) -> Tensor | None:
    """The true labels of this process's share of a split, in the order of its loader."""
    if true is None:
        return None
    return torch.from_numpy(np.asarray(true))[accelerator.process_index :: accelerator.num_processes]


def show_features(session: Session, recipe: Recipe, splits: Splits, folder: Path) -> None:
    """Leave the features of the last epoch for the report, where a plane shows them and labels are noisy."""
    if session.memorization is None or not session.accelerator.is_main_process:
        return
    from etfhead.experiment.training.feature_points import write_feature_points

    with session.accelerator.autocast():
        write_feature_points(session.evaluated, recipe, splits, folder)
