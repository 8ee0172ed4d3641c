"""Memorization and dilation as a torchmetrics metric: training and test samples in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from etfhead.frames.base import checked_size
from etfhead.metrics._checks import checked_batch, wide_dtype
from etfhead.metrics._moments_sync import moments_over_processes
from etfhead.metrics._sized_metric import SizedMetric
from etfhead.metrics._sync import Gather, sum_over_processes
from etfhead.metrics.class_moments import ClassMoments, add_batch, empty_moments, merge_moments
from etfhead.metrics.memorization import (
    corrupted_sums,
    memorization_dilation_figures,
    named_classes,
)

__all__ = ["MemorizationDilation"]

_GROUPS = ("clean", "wrong_by_true", "wrong_by_observed", "test")
_KEPT = ("kept_features", "kept_labels", "kept_observed", "kept_predictions")
_SUMS = ("distance", "known", "bias", "share", "ways", "memorized", "recovered", "judged")
_NO_PREDICTION = -1


class MemorizationDilation(SizedMetric):
    r"""How far a network has memorised wrong labels, and how far its clean test classes have spread.

    .. math:: \mathrm{mem} = \frac1C \sum_c \sum_{j:\, y_j = c \ne \tilde y_j} \lVert h_j - \mu_c \rVert,
              \qquad \mathrm{dilation} = \tfrac1K \mathrm{tr}(\Sigma_W \Sigma_B^+) \text{ on clean test data}

    "Memorization-Dilation: modeling neural collapse under noise" (ICLR 2023, arXiv 2206.05530); the figures
    are those of :func:`~etfhead.metrics.memorization_figures`. One instance takes both kinds of batches: with
    ``observed`` labels a batch is of training samples, without it is of clean test samples. Take features in
    evaluation mode and without augmentation.

    Kept are four sets of K d + d^2 numbers, and the training features with a wrong label, on their process
    and in their own type: distances to means need the means first. The result does not depend on the order
    of batches or on processes.

    Args:
        num_classes: K, at least 2.
        **kwargs: Of :class:`torchmetrics.Metric`.

    >>> metric = MemorizationDilation(num_classes=2)
    >>> features = torch.tensor([[0.0], [0.2], [0.8], [2.0], [2.2], [1.0]])
    >>> labels, observed = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 1, 0])
    >>> metric.update(features, labels, observed)
    >>> metric.update(torch.tensor([[0.0], [0.4], [2.0], [2.4]]), torch.tensor([0, 0, 1, 1]))
    >>> figures = metric.compute()
    >>> round(figures["memorization_relative"].item(), 2), round(figures["dilation"].item(), 4)
    (0.45, 0.02)
    """

    is_differentiable = False
    plotted = ("memorization_relative", "corruption_bias_relative", "nc1_train_true", "dilation")
    higher_is_better = False

    clean_sums: Tensor
    added_up: Tensor
    kept_features: list[Tensor]
    kept_labels: list[Tensor]
    kept_observed: list[Tensor]
    kept_predictions: list[Tensor]

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = checked_size("num_classes", num_classes, 2)
        for group in _GROUPS:
            for name, state in zip(ClassMoments._fields, empty_moments(num_classes, 0), strict=True):
                self.add_state(f"{group}_{name}", state, dist_reduce_fx="sum")
        for name in _KEPT:
            self.add_state(name, [], dist_reduce_fx=None)
        # What other processes' samples with a wrong label add up to, after a synchronisation.
        self.add_state("added_up", torch.zeros(len(_SUMS), dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def in_features(self) -> int:
        """The d of the features seen; 0 before the first batch."""
        return self.clean_sums.shape[1]

    def moments(self, group: str) -> ClassMoments:
        """What was kept of ``"clean"``, ``"wrong_by_true"``, ``"wrong_by_observed"`` or ``"test"`` ones."""
        return ClassMoments(*(getattr(self, f"{group}_{name}") for name in ClassMoments._fields))

    @torch.no_grad()
    def update(
        self,
        features: Tensor,
        labels: Tensor,
        observed: Tensor | None = None,
        predictions: Tensor | None = None,
    ) -> None:
        """Add a batch of training samples, or of clean test samples; as a whole or not at all.

        Args:
            features: What the class vectors multiply, (B, d).
            labels: True classes, (B,), from 0 to K - 1.
            observed: The classes the samples were trained on, (B,); None for test samples.
            predictions: The network's classes (B,) or logits (B, K), for ``memorized_fraction``; of training
                samples.

        Raises:
            ValueError: If a shape does not fit, a class is out of range or a feature is not finite.
        """
        wide, labels = checked_batch(features, labels, self.num_classes, self.in_features or None)
        if predictions is not None:
            predictions = named_classes(predictions, labels)
        if observed is not None:
            _, observed = checked_batch(features, observed, self.num_classes)
        self._take_width(wide.shape[1], wide.device)
        if observed is None:
            add_batch(self.moments("test"), wide, labels)
            return
        wrong = observed != labels
        add_batch(self.moments("clean"), wide[~wrong], labels[~wrong])
        add_batch(self.moments("wrong_by_true"), wide[wrong], labels[wrong])
        add_batch(self.moments("wrong_by_observed"), wide[wrong], observed[wrong])
        if bool(wrong.any()):
            if predictions is None:
                predictions = torch.full_like(labels, _NO_PREDICTION)
            kept = (features.detach(), labels, observed, predictions)
            for name, value in zip(_KEPT, kept, strict=True):
                getattr(self, name).append(value[wrong])

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        """The figures of :func:`~etfhead.metrics.memorization_figures`, over all processes.

        Raises:
            ValueError: If there is no sample, fewer than two classes have one with a right label, or class
                means coincide.
        """
        sums = dict(zip(_SUMS, self._corrupted(), strict=True))
        clean, by_true, by_observed, test = (self.moments(group) for group in _GROUPS)
        return memorization_dilation_figures(clean, by_true, by_observed, test, sums)

    def merge_state(self, incoming_state: Mapping[str, Any] | Metric) -> None:
        """Add the samples that another instance, or its states by name, has seen."""
        given = incoming_state if isinstance(incoming_state, Mapping) else vars(incoming_state)
        if width := given["clean_sums"].shape[1]:
            self._take_width(width, given["clean_sums"].device)
            if given["clean_sums"].shape != self.clean_sums.shape:
                raise ValueError(
                    f"incoming_state: expected class sums {tuple(self.clean_sums.shape)}, got "
                    f"{tuple(given['clean_sums'].shape)}; merge those of the same classes and features"
                )
            for group in _GROUPS:
                other = ClassMoments(*(given[f"{group}_{name}"] for name in ClassMoments._fields))
                with torch.inference_mode(False):  # as in _take_width
                    self._hold(group, merge_moments(self.moments(group), other))
        self._computed = None
        self._update_count += 1
        self.added_up = self.added_up + given["added_up"]
        for name in _KEPT:
            setattr(self, name, [*getattr(self, name), *given[name]])

    def _corrupted(self) -> Tensor:
        """Sums over all samples with a wrong label."""
        total, clean = self.added_up.to(self.clean_sums), self.moments("clean")
        for features, labels, observed, predictions in zip(
            *(getattr(self, name) for name in _KEPT), strict=True
        ):
            given = predictions if bool((predictions != _NO_PREDICTION).all()) else None
            sums = corrupted_sums(clean, features.to(clean.sums), labels, observed, given)
            total = total + torch.stack([sums[name] for name in _SUMS])
        return total

    def _sum_states(self, gather: Gather, group: Any) -> None:
        """Each process measures its own samples by everybody's class means, none is sent."""
        for name in _GROUPS:
            self._hold(name, moments_over_processes(self.moments(name), gather, group))
        self.added_up = sum_over_processes(self._corrupted(), gather, group)
        for name in _KEPT:
            setattr(self, name, [])

    def _make_states(self, width: int, device: torch.device) -> None:
        dtype = wide_dtype(device)
        for group in _GROUPS:
            self._hold(group, empty_moments(self.num_classes, width, device=device, dtype=dtype))
        self.added_up = self.added_up.to(device, dtype)

    def _hold(self, group: str, moments: ClassMoments) -> None:
        for name, value in zip(ClassMoments._fields, moments, strict=True):
            setattr(self, f"{group}_{name}", value)
