"""The figures of a model on a split, whatever the task: classes, label sets or real-valued targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from etfhead.experiment.recipe import Recipe
from etfhead.experiment.task import is_multilabel, primary_metric
from etfhead.experiment.training.evaluate import evaluate
from etfhead.experiment.training.evaluate_labels import evaluate_labels
from etfhead.experiment.training.evaluate_targets import evaluate_targets
from etfhead.experiment.training.label_figures import Readout
from etfhead.experiment.training.session import Session
from etfhead.experiment.training.shares import Loader

__all__ = ["SplitMeasure"]


class SplitMeasure:
    """Measures any weights of one arm's model on any split.

    Args:
        recipe: The comparison.
        arm: Name of the arm.
        session: Its moving parts.
        num_classes: K.
        class_counts: Training images of each class.
    """

    def __init__(
        self, recipe: Recipe, arm: str, session: Session, *, num_classes: int, class_counts: Sequence[int]
    ) -> None:
        self._recipe, self._options, self._session = recipe, recipe.arms[arm], session
        self._num_classes, self._class_counts = num_classes, class_counts

    def __call__(
        self,
        model: nn.Module,
        loader: Loader,
        readout: Readout | None,
        tick: Callable[[int], None],
        true: Tensor | None = None,
        *,
        detailed: bool = False,
    ) -> tuple[dict[str, Any], Readout | None]:
        """Figures of a model on this process's share of a split.

        Args:
            model: Any weights of the arm's model.
            loader: The share.
            readout: On multi-label data what decisions rest on; None fits it to this split, as is right for
                validation alone.
            tick: Called with the number of images after each batch; may raise to stop.
            true: True classes of the share, where its labels are noisy.
            detailed: Also give the reliability diagram and the accuracy of every class of a long tail.

        Returns:
            The figures and, on multi-label data, the readout.
        """
        session, recipe = self._session, self._recipe
        shared: dict[str, Any] = {
            "accelerator": session.accelerator,
            "memory_format": session.memory_format,
            "tick": tick,
        }
        if session.scaling is not None:
            return evaluate_targets(model, loader, scaling=session.scaling, **shared), None
        shared["class_counts"] = self._class_counts
        if is_multilabel(recipe.dataset):
            shared |= {"arm": self._options, "metric": primary_metric(recipe), "readout": readout}
            return evaluate_labels(model, loader, **shared)
        shared |= {"posthoc": self._options.posthoc, "true": true, "detailed": detailed}
        return evaluate(model, loader, num_classes=self._num_classes, **shared), None
