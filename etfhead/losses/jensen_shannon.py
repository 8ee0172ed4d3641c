"""Jensen-Shannon losses between the label and one or several predictions."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from etfhead.losses._complement import complement
from etfhead.losses._label_loss import LabelLoss, Reduction, evaluate, expected

__all__ = ["JensenShannonLoss", "jensen_shannon"]


def jensen_shannon(
    logits: Tensor,
    target: Tensor,
    *,
    weights: Sequence[float] = (0.7, 0.3),
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Weighed Jensen-Shannon divergence of the label and the predictions of a sample's views.

    .. math:: \ell = -\frac{1}{(1 - \pi_1) \log(1 - \pi_1)} \Bigl(\pi_1 \mathrm{KL}(y \Vert m)
              + \sum_{v} \pi_{v+1} \mathrm{KL}(p^{(v)} \Vert m)\Bigr), \quad
              m = \pi_1 y + \sum_v \pi_{v+1} p^{(v)}

    Englesson & Azizpour, "Generalized Jensen-Shannon divergence loss for learning with noisy labels" (NeurIPS
    2021, arXiv 2105.04522): JS for one prediction, GJS for several, which it also asks to agree. pi_1 -> 0 is
    cross-entropy, pi_1 -> 1 goes (slowly) to half the mean absolute error. It is at most
    log(pi_1) pi_1 / ((1 - pi_1) log(1 - pi_1)) + 1 for one view.

    Published: JS (0.7, 0.3); GJS on CIFAR-10 (0.9, 0.05, 0.05) for symmetric and (0.3, 0.35, 0.35) for
    asymmetric noise of 40 %, on CIFAR-100 (0.5, 0.25, 0.25).

    Args:
        logits: (B, K), or (V, B, K) of V augmented views of the same samples.
        target: Classes (B,), or class weights (B, K) that sum to 1.
        weights: pi: of the label and of each view, V + 1 positive numbers that sum to 1.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> jensen_shannon(torch.zeros(2, 1, 2), torch.tensor([0]), weights=(0.5, 0.25, 0.25))
    tensor(0.6226)
    """
    pi = _checked_weights(weights)
    views = 1 if logits.ndim == 2 else len(logits) if logits.ndim == 3 else 0
    if views != len(pi) - 1:
        raise ValueError(
            f"logits: expected (B, K) or (V, B, K) with V = {len(pi) - 1}, one view for each of the "
            f"weights {pi} after the label's, got {tuple(logits.shape)}"
        )
    if views == 1:
        logits = logits if logits.ndim == 2 else logits[0]
        return evaluate(functools.partial(_one_view, pi=pi), logits, target, reduction)
    # Views and samples are widened and checked as one batch, then taken apart.
    return evaluate(
        lambda x, y: _several_views(x.unflatten(0, (views, -1)), y[: logits.shape[1]], pi),
        logits.flatten(0, 1),
        target.repeat(views, *([1] * (target.ndim - 1))),
        reduction,
    )


def _checked_weights(weights: Sequence[float]) -> tuple[float, ...]:
    pi = tuple(float(weight) for weight in weights)
    if len(pi) < 2 or not all(0.0 < weight < 1.0 for weight in pi) or abs(math.fsum(pi) - 1.0) > 1e-6:
        raise ValueError(
            f"weights={tuple(weights)!r}: expected one number for the label and one for each view, "
            "positive and with sum 1"
        )
    return pi


def _scale(pi: tuple[float, ...]) -> float:
    return -(1.0 - pi[0]) * math.log1p(-pi[0])


def _one_view(log_p: Tensor, target: Tensor, pi: tuple[float, ...]) -> Tensor:
    if target.ndim == 2:
        return _several_views(log_p[None], target, pi)
    rest = 1.0 - pi[0]

    def of_class(x: Tensor) -> Tensor:
        # m is rest * p outside the label: those terms add up to -rest (1 - p_y) log rest.
        away = complement(x) * rest
        return rest * x.exp() * x - (1.0 - away) * torch.log1p(-away) - away * math.log(rest)

    return expected(of_class, log_p, target) / _scale(pi)


def _several_views(log_p: Tensor, target: Tensor, pi: tuple[float, ...]) -> Tensor:
    """From log-probabilities (V, B, K)."""
    if target.ndim == 1:
        target = nn.functional.one_hot(target, log_p.shape[2]).to(log_p.dtype)
    log_y = target.log()
    parts = [x + math.log(weight) for x, weight in zip((log_y, *log_p), pi, strict=True)]
    mixed = torch.logsumexp(torch.stack(parts), dim=0)
    views = (log_p.exp() * (log_p - mixed)).sum(2)
    own = torch.where(target > 0, target * (torch.where(target > 0, log_y, 0.0) - mixed), 0.0).sum(1)
    total = pi[0] * own
    for weight, view in zip(pi[1:], views, strict=True):
        total = total + weight * view
    return total / _scale(pi)


class JensenShannonLoss(LabelLoss):
    """Module form of :func:`jensen_shannon`.

    Args:
        weights: Of the label and of each view, positive, with sum 1: two for JS, more for GJS.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K), or (V, B, K).
        - target: (B,) integer, or (B, K) float.

    >>> JensenShannonLoss((0.5, 0.25, 0.25))(torch.zeros(2, 1, 2), torch.tensor([0]))
    tensor(0.6226)
    """

    def __init__(self, weights: Sequence[float] = (0.7, 0.3), *, reduction: Reduction = "mean") -> None:
        nn.Module.__init__(self)
        self.weights, self.reduction = _checked_weights(weights), reduction
        self._names = ("weights",)
        self(torch.zeros(len(self.weights) - 1, 1, 2), torch.zeros(1, dtype=torch.long))

    def per_sample(self, x: Tensor, target: Tensor) -> Tensor:
        """Losses (B,) of one view, from log-probabilities and checked targets."""
        if len(self.weights) != 2:
            raise ValueError(f"weights={self.weights!r}: expected two, as there is one view here")
        return _one_view(x, target, self.weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        return jensen_shannon(logits, target, weights=self.weights, reduction=self.reduction)
