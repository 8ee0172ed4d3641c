"""Cross-entropy and focal loss divided by their sum over all labels, and the negative losses made of them."""

from __future__ import annotations

import math

from torch import Tensor

from etfhead.losses._class_sums import class_sums
from etfhead.losses._class_terms import Focal, Gap, Log, Term
from etfhead.losses._label_loss import LabelLoss, Reduction, check_not_negative, evaluate

__all__ = [
    "NormalizedCrossEntropyLoss",
    "NormalizedNegativeLoss",
    "normalized_cross_entropy",
    "normalized_negative_loss",
]


def normalized_cross_entropy(
    logits: Tensor, target: Tensor, *, gamma: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""Cross-entropy (or focal loss) as a share of its sum over all labels.

    .. math:: \ell = \frac{(1 - p_y)^\gamma \log p_y}{\sum_k (1 - p_k)^\gamma \log p_k}

    Ma et al., "Normalized loss functions for deep learning with noisy labels" (ICML 2020, arXiv 2006.13554):
    NCE for gamma = 0, NFL else. Summed over the labels it is 1 for any logits, so it is a symmetric loss.
    Alone it underfits; see :func:`~etfhead.losses.active_passive`. The gradient is that of the formula;
    public codes take the factor (1 - p)^gamma as a constant.

    Published: gamma = 0.5 for NFL.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        gamma: Focusing exponent, at least 0.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> import torch
    >>> normalized_cross_entropy(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.2500)
    """
    return evaluate(
        lambda x, y: normalized_losses(x, y, gamma=gamma),
        logits,
        target,
        reduction,
        own_softmax=bool(gamma),
    )


def normalized_negative_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 0.0,
    min_prob: float = 1e-7,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One minus the share that the label has in how far all losses stay below their largest value.

    .. math:: \ell = 1 - \frac{A - f(p_y)}{\sum_k \bigl(A - f(p_k)\bigr)}, \quad
              f(p) = -(1 - p)^\gamma \log p, \quad A = f(p_{\min})

    Ye et al., "Active negative loss functions for learning with noisy labels" (NeurIPS 2023): NNCE for
    gamma = 0, NNFL else; p is clamped at p_min. Summed over the labels it is K - 1, so it is a symmetric
    loss, and unlike the mean absolute error it cares for the other classes.

    Published: min_prob = 1e-7.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        gamma: Focusing exponent, at least 0.
        min_prob: Where probabilities are clamped, in (0, 1/K).
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> import torch
    >>> normalized_negative_loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """
    return evaluate(
        lambda x, y: negative_losses(x, y, gamma=gamma, min_prob=min_prob),
        logits,
        target,
        reduction,
        own_softmax=bool(gamma),
    )


def normalized_losses(log_p: Tensor, target: Tensor, *, gamma: float) -> Tensor:
    """:func:`normalized_cross_entropy` of each sample, (B,), from log-probabilities."""
    term = active_term(gamma)
    own, total = class_sums(log_p, target, term)
    return of_label(term, log_p, target, own) / total


def negative_losses(log_p: Tensor, target: Tensor, *, gamma: float, min_prob: float) -> Tensor:
    """:func:`normalized_negative_loss` of each sample, (B,), from log-probabilities."""
    term = negative_term(gamma, min_prob, log_p.shape[1])
    own, total = class_sums(log_p, target, term)
    return 1.0 - of_label(term, log_p, target, own) / total


def active_term(gamma: float) -> Term:
    """What normalised cross-entropy is a share of: (1 - p)^gamma log p."""
    check_not_negative(gamma=gamma)
    return Focal(gamma) if gamma else Log()


def negative_term(gamma: float, min_prob: float, num_classes: int) -> Term:
    """What the negative losses are shares of: how far the losses stay below their largest value."""
    check_not_negative(gamma=gamma)
    if not 0.0 < min_prob < 1.0 / num_classes:
        raise ValueError(f"min_prob={min_prob!r}: expected a probability between 0 and 1/K")
    lowest = math.log(min_prob)
    return Focal(gamma, lowest, -lowest * (1.0 - min_prob) ** gamma) if gamma else Gap(lowest)


def of_label(term: Term, log_p: Tensor, target: Tensor, own: Tensor) -> Tensor:
    """A term of the labelled class, or its mean by class weights, (B,)."""
    return term.values(own) if target.ndim == 1 else (target * term.values(log_p)).sum(1)


class NormalizedCrossEntropyLoss(LabelLoss):
    """Module form of :func:`normalized_cross_entropy`.

    Args:
        gamma: Focusing exponent; 0 is normalised cross-entropy, 0.5 the published normalised focal loss.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> import torch
    >>> NormalizedCrossEntropyLoss(gamma=0.5)(torch.zeros(1, 4), torch.tensor([0])).item()
    0.25
    """

    _per_sample = staticmethod(normalized_losses)

    @property
    def _own_softmax(self) -> bool:
        return bool(self.gamma)

    def __init__(self, *, gamma: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, gamma=gamma)


class NormalizedNegativeLoss(LabelLoss):
    """Module form of :func:`normalized_negative_loss`.

    Args:
        gamma: Focusing exponent; 0 is NNCE.
        min_prob: Where probabilities are clamped.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> import torch
    >>> NormalizedNegativeLoss()(torch.zeros(1, 4), torch.tensor([0])).item()
    0.75
    """

    _per_sample = staticmethod(negative_losses)

    @property
    def _own_softmax(self) -> bool:
        return bool(self.gamma)

    def __init__(self, *, gamma: float = 0.0, min_prob: float = 1e-7, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, gamma=gamma, min_prob=min_prob)
