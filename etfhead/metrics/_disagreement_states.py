"""What NC4 keeps of a stream: counts of samples judged, and samples until their class means are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from etfhead.metrics._sync import Gather, sum_over_processes
from etfhead.metrics._wide_metric import WideMetric
from etfhead.metrics.class_moments import ClassMoments
from etfhead.metrics.nearest_centre import nearest_centre_disagreement

__all__ = ["DisagreementStates"]


class DisagreementStates(WideMetric):
    """The states that count where the classifier and the nearest class mean name different classes.

    ``nc4="exact"`` keeps features until all class means are known; ``"running"`` judges each batch by the
    means so far and keeps nothing. What was judged on every process adds up.
    """

    nc4: Literal["exact", "running"] | None
    disagreements: Tensor
    decided: Tensor
    kept_features: list[Tensor]
    kept_predictions: list[Tensor]

    def _add_disagreement_states(self) -> None:
        self.add_state("disagreements", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("decided", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("kept_features", [], dist_reduce_fx=None)
        self.add_state("kept_predictions", [], dist_reduce_fx=None)

    def _judge(self, features: Tensor, predictions: Tensor, moments: ClassMoments) -> None:
        """Take the predictions (B,) for a batch whose features (B, d) are in the moments."""
        if self.nc4 == "exact":
            self.kept_features.append(features.detach().clone())
            self.kept_predictions.append(predictions.to(features.device))
            return
        wrong = nearest_centre_disagreement(features.detach(), moments.means, predictions, moments.counts > 0)
        # Not in place: reset() in inference mode leaves tensors that cannot be changed outside of it.
        self.disagreements = self.disagreements + wrong.to(self.disagreements.device)
        self.decided = self.decided + len(features)

    def _judged(self, moments: ClassMoments) -> tuple[Tensor, Tensor]:
        """How many samples are named differently, and of how many."""
        wrong, decided = self.disagreements, self.decided
        means, seen = moments.means, moments.counts > 0
        for features, predictions in zip(self.kept_features, self.kept_predictions, strict=True):
            wrong = wrong + nearest_centre_disagreement(features, means, predictions, seen)
            decided = decided + len(features)
        return wrong, decided

    def _merge_judged(self, incoming: Mapping[str, Any]) -> None:
        """Add another instance's states, by name."""
        self.disagreements = self.disagreements + incoming["disagreements"]
        self.decided = self.decided + incoming["decided"]
        self.kept_features = [*self.kept_features, *incoming["kept_features"]]
        self.kept_predictions = [*self.kept_predictions, *incoming["kept_predictions"]]

    def _sum_judged(self, moments: ClassMoments, gather: Gather, group: Any) -> None:
        """Sum over processes: each judges its own samples by everybody's moments, none is sent."""
        wrong, decided = self._judged(moments)
        self.disagreements = sum_over_processes(wrong, gather, group)
        self.decided = sum_over_processes(decided, gather, group)
        self.kept_features, self.kept_predictions = [], []
