"""Neural regression collapse of a training: measured at the last layer, on the same samples each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from etfhead.metrics.last_layer_input import (
    class_vectors,
    find_last_layer,
    uncompiled,
    unwrapped,
    watching,
)
from etfhead.metrics.regression_metric import RegressionCollapse
from etfhead.surgery.class_pass import evaluating

__all__ = ["RegressionMonitor"]


class RegressionMonitor:
    """Measures NRC1 to NRC3 at the last layer's input, in evaluation mode and without gradients.

    Under torch.distributed every process brings its share of the samples and gets the figures of all.

    Args:
        model: Its etfhead head is watched, or its stock last layer.
        loader: Yields inputs and targets (B, n) of a fixed subset of the training data, without augmentation.
        num_targets: n.

    Attributes:
        problem: Why the last measurement lacks figures; empty if it does not.

    Raises:
        ValueError: If the last layer has fewer features than targets.
    """

    def __init__(self, model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], num_targets: int) -> None:
        self.model, self.loader, self.num_targets = unwrapped(model), loader, num_targets
        self.classifier, self.layer = find_last_layer(self.model)
        vectors, _ = class_vectors(self.layer)
        if vectors is not None and vectors.shape[1] < num_targets:
            raise ValueError(
                f"model: {vectors.shape[1]} features cannot hold the directions of {num_targets} targets; "
                "widen its last hidden layer, or write collapse_every: 0"
            )
        self.problem = ""

    @torch.no_grad()
    def measure(self, *, tick: Callable[[int], None] = lambda images: None) -> dict[str, float]:
        """Run the model over the samples and measure.

        Args:
            tick: Called with the number of samples after each batch; may raise to stop.

        Returns:
            dict: ``nrc1``, ``nrc2``, ``nrc3`` and its ``nrc_gamma`` as far as they have a value
            (:func:`~etfhead.metrics.regression_collapse`); ``nrc_energy``, the mean square norm of the
            features; ``collapse_images``; ``collapse_time``, seconds.
        """
        device = next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))
        began = _now(device)
        vectors, _ = class_vectors(self.layer)
        if vectors is not None and not bool(vectors.isfinite().all()):
            vectors = None
        states_on = torch.device("cpu") if device.type == "mps" else device
        metric = RegressionCollapse(self.num_targets, weight=vectors).to(states_on)
        sums = torch.zeros(2, dtype=torch.float64, device=states_on)  # samples, squares of features
        current: list[Tensor] = []
        self.problem = ""

        def see(features: Tensor, _: Tensor) -> None:
            finite = features.isfinite().all(1)
            if not bool(finite.all()):
                self.problem = f"{int((~finite).sum())} samples with features that are not finite"
            kept = features[finite].to(states_on)
            metric.update(kept, current[0][finite.cpu()].to(states_on))
            sums.add_(torch.stack([finite.sum().to(sums), kept.double().square().sum()]))

        with (
            torch.random.fork_rng(devices=[]),
            evaluating(self.model),
            watching(self.layer, see),
            uncompiled(),
        ):
            for inputs, targets in self.loader:
                current[:] = [targets]
                self.model(inputs.to(device, non_blocking=True))
                tick(len(targets))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        samples, squares = sums.tolist()
        figures = {f"nrc_{key}" if key == "gamma" else key: value for key, value in self._figures(metric)}
        if samples:
            figures["nrc_energy"] = squares / samples
        return {**figures, "collapse_images": samples, "collapse_time": _now(device) - began}

    def _figures(self, metric: RegressionCollapse) -> list[tuple[str, float]]:
        try:
            found = metric.compute()
        except ValueError as error:  # features that are all one, or too few samples: training goes on
            self.problem = str(error)
            return []
        return [(key, float(value)) for key, value in found.items() if key != "zero_features"]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
