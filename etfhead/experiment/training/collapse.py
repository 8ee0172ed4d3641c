"""When neural collapse is measured during a training, by what, and on which images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.utils.data import Subset

from etfhead.experiment.data import Splits
from etfhead.experiment.data.rng import hash_keys
from etfhead.experiment.data.splits import stratified_limit
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.training.shares import eval_share

if TYPE_CHECKING:
    from accelerate import Accelerator

    from etfhead.experiment.training.regression_monitor import RegressionMonitor
    from etfhead.experiment.training.session import Session
    from etfhead.experiment.training.tail_geometry import TailGeometry
    from etfhead.metrics import CollapseMonitor

__all__ = [
    "build_collapse_monitor",
    "build_tail_geometry",
    "collapse_figures",
    "collapse_is_due",
    "collapse_subset",
    "collapse_time",
]

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


def build_collapse_monitor(
    model: nn.Module, recipe: Recipe, splits: Splits, accelerator: Accelerator
) -> CollapseMonitor | RegressionMonitor | None:
    """The monitor of a run; None where nothing is measured.

    Args:
        model: The one whose accuracy counts, not wrapped.
        recipe: When and on how many images.
        splits: The data.
        accelerator: Gives this process's share.
    """
    if not recipe.collapse_every:
        return None
    from etfhead.metrics import CollapseMonitor

    loader = eval_share(collapse_subset(recipe, splits), recipe, accelerator)
    if splits.targets is not None:
        from etfhead.experiment.training.regression_monitor import RegressionMonitor

        return RegressionMonitor(model, loader, splits.num_classes)
    return CollapseMonitor(model, loader, num_classes=splits.num_classes)


def build_tail_geometry(
    model: nn.Module, criterion: nn.Module, recipe: Recipe, splits: Splits, accelerator: Accelerator
) -> TailGeometry | None:
    """Measures the distance to the predicted geometry; None if the loss has none or nothing is measured."""
    from etfhead.experiment.training.tail_geometry import TailGeometry, is_predicted

    if not recipe.collapse_every or not is_predicted(criterion):
        return None
    return TailGeometry(model, criterion, eval_share(splits.plain, recipe, accelerator), splits.class_counts)


def collapse_figures(
    session: Session, recipe: Recipe, epochs_done: int, tick: Callable[[int], None]
) -> dict[str, float]:
    """Figures of collapse, memorization and dilation after so many epochs; empty where none are due.

    Args:
        session: Has the monitors.
        recipe: Says when.
        epochs_done: 0 before training.
        tick: Called with the number of images after each batch; may raise to stop.
    """
    if not collapse_is_due(recipe, epochs_done):
        return {}
    figures: dict[str, float] = {}
    with session.accelerator.autocast():
        for monitor in (session.monitor, session.memorization, session.tail):
            figures |= {} if monitor is None else monitor.measure(tick=tick)
    return figures


def collapse_time(
    initial: Mapping[str, Any] | None, records: Iterable[Mapping[str, Any]], key: str = "collapse_time"
) -> float | None:
    """Seconds that all measurements of a training took, in rows by their key; None if there were none."""
    times = [row[key] for row in (initial or {}, *records) if key in row]
    return sum(times) if times else None
