"""Watch the collapse of a model's last layer during training, in any loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from etfhead.frames.base import checked_size
from etfhead.metrics.collapse_metric import NeuralCollapse
from etfhead.metrics.last_layer_input import (
    class_vectors,
    find_last_layer,
    uncompiled,
    unwrapped,
    watching,
)
from etfhead.surgery.class_pass import evaluating

__all__ = ["CollapseMonitor"]

_NAMES = {"missing_classes": "missing", "single_sample_classes": "single_samples"}
_HIDDEN = ("nc1_trace",)  # K times nc1


class CollapseMonitor:
    """Measures neural collapse at the classifier's input of any model, every n epochs on the same samples.

    It hooks the layer only while it measures, in evaluation mode, uncompiled and without gradients, and
    leaves modes, buffers and the CPU's random state as they were. Under torch.distributed every process
    brings its share of the samples and gets the figures of all.

    Args:
        model: Any classifier; wrappers (DDP, torch.compile) are looked through. Its etfhead head is watched,
            or the stock layer that :func:`~etfhead.surgery.find_classifiers` finds; the first where there are
            several. Features are those that the class vectors multiply: behind a head's neck and
            normalisation.
        loader: Yields ``(images, labels, ...)`` of a fixed subset of the training data, without augmentation.
        every: Epochs between two measurements.
        num_classes: K, to be sure, or of a layer that does not tell; None takes the layer's.
        classifier: Dotted name of the layer to watch, instead of the search.
        path: JSON-lines file that :meth:`after_epoch` adds a line to; None for none.

    Attributes:
        classifier: Name of the layer that is watched.
        seconds: Time that all measurements took.
        problem: Why the last measurement lacks figures; empty if it does not.

    Raises:
        ValueError: If no classifier is found, or it has another number of classes.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    >>> batches = [(torch.randn(30, 8, 8), torch.arange(30) % 3)]
    >>> monitor = CollapseMonitor(model, batches, every=5, classifier="1")
    >>> sorted(monitor.after_epoch(9))[:3], monitor.after_epoch(10)
    (['collapse_cdnv', 'collapse_images', 'collapse_missing'], {})
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *,
        every: int = 1,
        num_classes: int | None = None,
        classifier: str | None = None,
        path: str | Path | None = None,
    ) -> None:
        self.every = checked_size("every", every, 1)
        self.model, self.loader = unwrapped(model), loader
        self.path = None if path is None else Path(path)
        self.classifier, self.layer = find_last_layer(self.model, classifier)
        known = class_vectors(self.layer)[1]
        if num_classes is None and known is None:
            raise ValueError(
                f"num_classes: {self.classifier!r} does not tell how many classes it has; give it"
            )
        self.num_classes = checked_size("num_classes", known if num_classes is None else num_classes, 2)
        if known is not None and known != self.num_classes:
            raise ValueError(
                f"num_classes={num_classes}: {self.classifier!r} has {known} class vectors; leave "
                "num_classes out, or name another layer (classifier='head.fc')"
            )
        self.seconds = 0.0
        self.problem = ""

    def due(self, epoch: int) -> bool:
        """Whether the 0-based epoch that has ended is one to measure after."""
        return (epoch + 1) % self.every == 0

    def after_epoch(self, epoch: int) -> dict[str, float]:
        """Measure if it is time, and add ``{"epoch": epoch, ...}`` to the file.

        Args:
            epoch: The 0-based epoch that has ended.

        Returns:
            dict: As :meth:`measure`; empty if it was not time.
        """
        if not self.due(epoch):
            return {}
        figures = self.measure()
        if self.path is not None and _first_process():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"epoch": epoch, **figures}, allow_nan=False) + "\n")
        return figures

    @torch.no_grad()
    def measure(self, *, tick: Callable[[int], None] = lambda images: None) -> dict[str, float]:
        """Run the model over the samples and measure.

        What has no value (a network whose features are all one, classes at one point) is left out, and
        :attr:`problem` says why: training goes on.

        Args:
            tick: Called with the number of images after each batch; may raise to stop.

        Returns:
            dict: The figures of :func:`~etfhead.metrics.neural_collapse` as ``collapse_nc1``, ...; NC4 by
            what the layer itself predicts, if it has K outputs. ``collapse_images``; ``collapse_missing``,
            classes without a sample; ``collapse_time``, seconds; ``collapse_not_finite``, samples left out,
            if any.

        Raises:
            ValueError: If batches are not images with one class each, or never pass the layer.
        """
        device = next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))
        began = _now(device)
        states_on = torch.device("cpu") if device.type == "mps" else device
        metric = NeuralCollapse(self.num_classes, weight=self._vectors()).to(states_on)
        counts = torch.zeros(2, dtype=torch.int64, device=device)  # added, not finite
        current: list[Tensor] = []
        waiting = False

        def see(features: Tensor, scores: Tensor) -> None:
            nonlocal waiting
            waiting = False
            finite = features.isfinite().all(1)
            labels = current[0].to(features.device)
            if labels.shape != finite.shape:
                raise ValueError(
                    f"loader: expected labels of shape ({len(features)},), one integer class a sample, "
                    f"got {tuple(labels.shape)}"
                )
            # A layer in the middle has a feature as its largest output, not a class.
            predictions = scores.argmax(1)[finite] if scores.shape[1] == self.num_classes else None
            metric.update(features[finite].to(states_on), labels[finite].to(states_on), predictions)
            counts.add_(torch.stack([finite.sum(), (~finite).sum()]))

        with (
            torch.random.fork_rng(devices=[]),
            evaluating(self.model),
            watching(self.layer, see),
            uncompiled(),
        ):
            for images, labels in map(_pair, self.loader):
                current[:] = [labels]
                waiting = True
                self.model(images.to(device, non_blocking=True))
                if waiting:
                    raise ValueError(
                        f"classifier={self.classifier!r}: the model ran without calling this layer, so there "
                        "are no features to measure; name the one that it calls (classifier='head.fc')"
                    )
                tick(len(images))
        figures = self._figures(metric)
        added, bad = _over_processes(counts)
        figures |= {"collapse_images": float(added)} | ({"collapse_not_finite": float(bad)} if bad else {})
        elapsed = _now(device) - began
        self.seconds += elapsed
        return figures | {"collapse_time": elapsed}

    def _vectors(self) -> Tensor | None:
        vectors, _ = class_vectors(self.layer)
        return vectors if vectors is not None and bool(vectors.isfinite().all()) else None

    def _figures(self, metric: NeuralCollapse) -> dict[str, float]:
        self.problem = ""
        try:
            found = metric.compute()
        except ValueError as error:
            self.problem = str(error)
            return {}
        values = {key: float(value) for key, value in found.items() if key not in _HIDDEN}
        finite = {key: value for key, value in values.items() if abs(value) < float("inf")}
        if missing := values.keys() - finite.keys():
            self.problem = f"not finite: {', '.join(sorted(missing))} (two class means at one point)"
        return {f"collapse_{_NAMES.get(key, key)}": value for key, value in finite.items()}


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, Sequence) or len(batch) < 2 or not all(map(torch.is_tensor, batch[:2])):
        inside = f" of {', '.join(type(part).__name__ for part in batch)}" if _is_list(batch) else ""
        raise ValueError(
            f"loader: expected batches (images, labels), tensors both, got {type(batch).__name__}{inside}"
        )
    return batch[0], batch[1]


def _is_list(batch: Any) -> bool:
    return isinstance(batch, list | tuple)


def _over_processes(counts: Tensor) -> list[int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
    numbers: list[int] = counts.tolist()
    return numbers


def _first_process() -> bool:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
