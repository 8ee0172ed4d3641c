"""Active-negative loss: normalised cross-entropy and its normalised negative."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from etfhead.losses._class_sums import class_sums
from etfhead.losses._label_loss import LabelLoss, Reduction, check_not_negative, evaluate
from etfhead.losses.normalized_cross_entropy import active_term, negative_term, of_label

__all__ = ["ActiveNegativeLoss", "active_negative", "l1_norm"]


def active_negative(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 5.0,
    beta: float = 5.0,
    gamma: float = 0.0,
    min_prob: float = 1e-7,
    entropy: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Normalised cross-entropy (or focal loss) plus its normalised negative.

    .. math:: \ell_i = \alpha\,\text{NCE}_i + \beta\,\text{NNCE}_i
              + \lambda \Bigl(\ln K + \sum_k \bar p_k \ln \bar p_k\Bigr), \quad
              \bar p = \tfrac1B \sum_i p_i

    Ye et al., "Active negative loss functions for learning with noisy labels" (NeurIPS 2023); the last term
    is that of its extension (ANL-CE-ER), which keeps the predicted classes balanced. The paper puts
    delta times the sum of all parameters' absolute values (:func:`l1_norm`) in the place of weight decay.

    Published: (alpha, beta, delta) = (5, 5, 5e-5) for CIFAR-10, (10, 1, 5e-7) for CIFAR-100; weight decay 0.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K).
        alpha: Weight of the active loss, at least 0.
        beta: Weight of the negative loss, at least 0.
        gamma: Focusing exponent of both (ANL-FL).
        min_prob: Where probabilities are clamped in the negative loss.
        entropy: lambda, at least 0. The term is of the batch, and is added to each sample.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> active_negative(torch.zeros(1, 4), torch.tensor([0]))
    tensor(5.)
    """
    per_sample = functools.partial(
        _negative, alpha=alpha, beta=beta, gamma=gamma, min_prob=min_prob, entropy=entropy
    )
    return evaluate(per_sample, logits, target, reduction, own_softmax=bool(gamma) and not entropy)


def l1_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Sum of the absolute values of all parameters that train: the active-negative loss' regulariser.

    >>> l1_norm([torch.tensor([1.0, -2.0], requires_grad=True)]).item()
    3.0
    """
    norms = [parameter.abs().sum() for parameter in parameters if parameter.requires_grad]
    if not norms:
        raise ValueError("parameters: none of them trains; pass model.parameters() before freezing")
    return torch.stack(norms).sum()


def _negative(
    log_p: Tensor,
    target: Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    min_prob: float,
    entropy: float,
) -> Tensor:
    check_not_negative(alpha=alpha, beta=beta, entropy=entropy)
    active, negative = active_term(gamma), negative_term(gamma, min_prob, log_p.shape[1])
    own, gaps, total = class_sums(log_p, target, negative, active)
    losses = alpha * of_label(active, log_p, target, own) / total
    losses = losses + beta * (1.0 - of_label(negative, log_p, target, own) / gaps)
    if entropy:
        # The mean of no samples is NaN, as that of their losses.
        mean = torch.logsumexp(log_p, dim=0) - (math.log(len(log_p)) if len(log_p) else math.nan)
        losses = losses + entropy * (math.log(log_p.shape[1]) + (mean.exp() * mean).sum())
    return losses


class ActiveNegativeLoss(LabelLoss):
    """Module form of :func:`active_negative`.

    Args:
        alpha: Weight of the active loss: 5 published for CIFAR-10, 10 for CIFAR-100.
        beta: Weight of the negative loss: 5 and 1.
        gamma: Focusing exponent of both.
        min_prob: Where probabilities are clamped in the negative loss.
        entropy: Weight of the batch's balance of predicted classes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> ActiveNegativeLoss()(torch.zeros(1, 4), torch.tensor([0])).item()
    5.0
    """

    _per_sample = staticmethod(_negative)

    @property
    def _own_softmax(self) -> bool:
        return bool(self.gamma) and not self.entropy

    def __init__(
        self,
        *,
        alpha: float = 5.0,
        beta: float = 5.0,
        gamma: float = 0.0,
        min_prob: float = 1e-7,
        entropy: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        options = {"alpha": alpha, "beta": beta, "gamma": gamma, "min_prob": min_prob, "entropy": entropy}
        super().__init__(reduction, **options)
