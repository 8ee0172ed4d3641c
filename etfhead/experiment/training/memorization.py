"""Memorization and dilation during a training on noisy labels, beside its collapse."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from etfhead.experiment.data.splits import Indices, stratified_limit
from etfhead.experiment.training.layer_features import layer_features
from etfhead.metrics import MemorizationDilation
from etfhead.metrics.last_layer_input import find_last_layer, unwrapped

__all__ = ["MemorizationMonitor", "noisy_subset"]

Batches = Iterable[Sequence[Tensor]]


def noisy_subset(observed: Indices, true: Indices, limit: int, seed: int) -> Indices:
    """Positions of at most ``limit`` images that keep the shares of classes and of wrong labels.

    Args:
        observed: Labels trained on, (n,).
        true: True labels, (n,).
        limit: Images to keep; at least one of every true class with a right label, and with a wrong one.
        seed: Chooses the images.

    >>> true = np.repeat([0, 1], 50)
    >>> observed = np.where(np.arange(100) % 5 == 0, 1 - true, true)
    >>> at = noisy_subset(observed, true, 20, 0)
    >>> len(at), (observed[at] != true[at]).sum()
    (20, np.int64(4))
    """
    kinds, strata = np.unique(2 * true + (observed != true), return_inverse=True)
    return stratified_limit(strata, max(limit, len(kinds)), seed, len(kinds))


class MemorizationMonitor:
    """Measures how far a model has memorised wrong labels, and how far clean held-out classes have spread.

    The figures are those of :func:`~etfhead.metrics.memorization_figures`, keys with ``md_`` in front. The
    dilation during training is that of the validation images by their true labels: the test set is read
    once, after the training.

    Args:
        model: Any classifier; its etfhead head or stock layer is watched.
        train: Yields images, observed and true labels of plain training images, this process's share.
        held_out: Yields images and true labels; None leaves the dilation out.
        num_classes: K.
    """

    def __init__(
        self, model: nn.Module, train: Batches | None, held_out: Batches | None, num_classes: int
    ) -> None:
        self.model = unwrapped(model)
        self.layer = find_last_layer(self.model)[1]
        self.train, self.held_out, self.num_classes = train, held_out, num_classes

    def measure(self, *, tick: Callable[[int], None] = lambda images: None) -> dict[str, float]:
        """The figures, and ``md_time`` in seconds; what has no value is left out.

        Args:
            tick: Called with the number of images after each batch; may raise to stop.
        """
        began = time.perf_counter()
        device = next(self.model.parameters()).device
        states_on = torch.device("cpu") if device.type == "mps" else device
        metric = MemorizationDilation(self.num_classes).to(states_on)

        def add_train(features: Tensor, scores: Tensor, labels: list[Tensor]) -> None:
            observed, true = (each.to(states_on) for each in labels)
            predictions = scores.argmax(1).to(states_on)
            metric.update(features.float().to(states_on), true, observed, predictions)

        def add_held_out(features: Tensor, scores: Tensor, labels: list[Tensor]) -> None:
            metric.update(features.float().to(states_on), labels[-1].to(states_on))

        for batches, add in ((self.train, add_train), (self.held_out, add_held_out)):
            if batches is not None:
                layer_features(self.model, self.layer, batches, add, tick)
        try:
            found = {key: float(value) for key, value in metric.compute().items()}
        except ValueError:  # class means at one point: a network that names one class, or an untrained one
            found = {}
        figures = {f"md_{key}": value for key, value in found.items() if abs(value) < float("inf")}
        return {**figures, "md_time": time.perf_counter() - began}
