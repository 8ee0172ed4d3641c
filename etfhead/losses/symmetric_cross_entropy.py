"""Mean absolute error, reverse cross-entropy and its sum with cross-entropy."""

from __future__ import annotations

import math

from torch import Tensor

from etfhead.losses._complement import complement
from etfhead.losses._label_loss import LabelLoss, Reduction, check_not_negative, evaluate, expected

__all__ = [
    "MeanAbsoluteErrorLoss",
    "ReverseCrossEntropyLoss",
    "SymmetricCrossEntropyLoss",
    "mean_absolute_error",
    "reverse_cross_entropy",
    "symmetric_cross_entropy",
]

_CLIP = math.log(1e-4)  # what the published code has for log 0


def mean_absolute_error(logits: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Absolute differences of the probabilities from the label, summed over the classes.

    .. math:: \ell = \lVert p - e_y \rVert_1 = 2 (1 - p_y)

    Ghosh, Kumar & Sastry, "Robust loss functions under label noise for deep neural networks" (AAAI 2017,
    arXiv 1712.09482). Its sum over all labels is 2(K - 1), whatever the logits, so uniform noise below
    (K - 1)/K does not move its minimiser; it underfits with many classes. Many codes leave out the factor 2.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes or types do not fit.

    >>> import torch
    >>> mean_absolute_error(torch.zeros(1, 4), torch.tensor([0]))
    tensor(1.5000)
    """
    return evaluate(_absolute, logits, target, reduction)


def reverse_cross_entropy(
    logits: Tensor, target: Tensor, *, log_zero: float = _CLIP, reduction: Reduction = "mean"
) -> Tensor:
    r"""Cross-entropy with prediction and label exchanged, log 0 being a number A.

    .. math:: \ell = -\sum_k p_k \log (e_y)_k = -A (1 - p_y)

    Wang et al., "Symmetric cross entropy for robust learning with noisy labels" (ICCV 2019, arXiv
    1908.06112): a multiple of the mean absolute error. Its sum over all labels is -A(K - 1).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        log_zero: A < 0; ln 1e-4 = -9.21 in the published code.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> import torch
    >>> reverse_cross_entropy(torch.zeros(1, 4), torch.tensor([0]), log_zero=-4.0)
    tensor(3.)
    """
    return evaluate(lambda x, y: _reverse(x, y, log_zero=log_zero), logits, target, reduction)


def symmetric_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = _CLIP,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy, which learns, plus reverse cross-entropy, which tolerates.

    .. math:: \ell = -\alpha \log p_y - \beta A (1 - p_y)

    Wang et al. (ICCV 2019, arXiv 1908.06112).

    Published: alpha = 0.1, beta = 1 (CIFAR-10); alpha = 6, beta = 0.1 (CIFAR-100).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        alpha: Weight of cross-entropy, at least 0.
        beta: Weight of reverse cross-entropy, at least 0.
        log_zero: A < 0, see :func:`reverse_cross_entropy`.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> import torch
    >>> symmetric_cross_entropy(torch.zeros(1, 4), torch.tensor([0]), alpha=1.0, beta=0.0)
    tensor(1.3863)
    """
    return evaluate(
        lambda x, y: _symmetric(x, y, alpha=alpha, beta=beta, log_zero=log_zero), logits, target, reduction
    )


def _absolute(log_p: Tensor, target: Tensor) -> Tensor:
    return expected(lambda x: 2.0 * complement(x), log_p, target)


def _reverse(log_p: Tensor, target: Tensor, *, log_zero: float) -> Tensor:
    if not -math.inf < log_zero < 0.0:
        raise ValueError(f"log_zero={log_zero!r}: expected a negative number")
    return expected(lambda x: -log_zero * complement(x), log_p, target)


def _symmetric(log_p: Tensor, target: Tensor, *, alpha: float, beta: float, log_zero: float) -> Tensor:
    check_not_negative(alpha=alpha, beta=beta)
    if not -math.inf < log_zero < 0.0:
        raise ValueError(f"log_zero={log_zero!r}: expected a negative number")
    return expected(lambda x: -beta * log_zero * complement(x) - alpha * x, log_p, target)


class MeanAbsoluteErrorLoss(LabelLoss):
    """Module form of :func:`mean_absolute_error`.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> import torch
    >>> MeanAbsoluteErrorLoss()(torch.zeros(1, 2), torch.tensor([0])).item()
    1.0
    """

    _per_sample = staticmethod(_absolute)

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)


class ReverseCrossEntropyLoss(LabelLoss):
    """Module form of :func:`reverse_cross_entropy`.

    Args:
        log_zero: A < 0, what log 0 is taken to be.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> import torch
    >>> ReverseCrossEntropyLoss(log_zero=-4.0)(torch.zeros(1, 2), torch.tensor([0])).item()
    2.0
    """

    _per_sample = staticmethod(_reverse)

    def __init__(self, *, log_zero: float = _CLIP, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, log_zero=log_zero)


class SymmetricCrossEntropyLoss(LabelLoss):
    """Module form of :func:`symmetric_cross_entropy`.

    Args:
        alpha: Weight of cross-entropy: 0.1 published for CIFAR-10, 6 for CIFAR-100.
        beta: Weight of reverse cross-entropy: 1 and 0.1.
        log_zero: A < 0, what log 0 is taken to be.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> SymmetricCrossEntropyLoss(alpha=6.0, beta=0.1, log_zero=-4.0)
    SymmetricCrossEntropyLoss(alpha=6.0, beta=0.1, log_zero=-4.0, reduction='mean')
    """

    _per_sample = staticmethod(_symmetric)

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        beta: float = 1.0,
        log_zero: float = _CLIP,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction, alpha=alpha, beta=beta, log_zero=log_zero)
