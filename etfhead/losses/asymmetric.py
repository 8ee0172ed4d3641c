"""Asymmetric losses: tolerant to any noise that leaves the true label the most frequent one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etfhead.losses._class_sums import class_sums
from etfhead.losses._class_terms import Square
from etfhead.losses._label_loss import LabelLoss, Reduction, evaluate, expected

__all__ = [
    "AsymmetricExponentialLoss",
    "AsymmetricGeneralizedCrossEntropyLoss",
    "AsymmetricMeanSquareLoss",
    "AsymmetricUnhingedLoss",
    "asymmetric_exponential",
    "asymmetric_generalized_cross_entropy",
    "asymmetric_mean_square",
    "asymmetric_unhinged",
]


def asymmetric_generalized_cross_entropy(
    logits: Tensor, target: Tensor, *, a: float = 0.6, q: float = 0.6, reduction: Reduction = "mean"
) -> Tensor:
    r"""AGCE, generalised cross-entropy moved away from p = 0.

    .. math:: \ell = \frac{(a + 1)^q - (a + p_y)^q}{q}

    Zhou et al., "Asymmetric loss functions for learning with noisy labels" (ICML 2021, arXiv 2106.03110).

    Published: a = 0.6, q = 0.6 (CIFAR-10, CIFAR-100); with normalised cross-entropy, weights (1, 4), a = 6,
    q = 1.5 (CIFAR-10) and (10, 0.1), a = 1.8, q = 3 (CIFAR-100).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        a: Positive.
        q: Positive.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> asymmetric_generalized_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), a=1.0, q=1.0)
    tensor(0.5000)
    """
    return evaluate(lambda x, y: _generalized(x, y, a=a, q=q), logits, target, reduction)


def asymmetric_unhinged(
    logits: Tensor, target: Tensor, *, a: float = 5.5, q: float = 3.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""AUL, a power of the distance of the label's probability from a > 1.

    .. math:: \ell = \frac{(a - p_y)^q - (a - 1)^q}{q}

    Zhou et al. (ICML 2021, arXiv 2106.03110).

    Published: a = 5.5, q = 3 (CIFAR-10, CIFAR-100).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        a: Above 1.
        q: Positive.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> asymmetric_unhinged(torch.zeros(1, 2), torch.tensor([0]), a=2.0, q=1.0)
    tensor(0.5000)
    """
    return evaluate(lambda x, y: _unhinged(x, y, a=a, q=q), logits, target, reduction)


def asymmetric_exponential(
    logits: Tensor, target: Tensor, *, a: float = 2.5, reduction: Reduction = "mean"
) -> Tensor:
    r"""AEL, the exponential of the label's probability.

    .. math:: \ell = e^{-p_y / a}

    Zhou et al. (ICML 2021, arXiv 2106.03110).

    Published: a = 2.5 (CIFAR-10, CIFAR-100).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        a: Positive.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> asymmetric_exponential(torch.zeros(1, 2), torch.tensor([0]), a=0.5)
    tensor(0.3679)
    """
    return evaluate(lambda x, y: _exponential(x, y, a=a), logits, target, reduction)


def asymmetric_mean_square(
    logits: Tensor, target: Tensor, *, a: float = 30.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""AMSE, the mean square distance of the probabilities from a times the label.

    .. math:: \ell = \frac1K \lVert a\,e_y - p \rVert^2

    Wang et al., "Joint asymmetric loss for learning with noisy labels" (ICCV 2025, arXiv 2507.17692): the
    passive partner of normalised cross-entropy in :func:`~etfhead.losses.joint_asymmetric`. a = 1 is the
    mean square error.

    Published: a = 30 (CIFAR-10), 20 (CIFAR-100).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        a: At least 1.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> asymmetric_mean_square(torch.zeros(1, 2), torch.tensor([0]), a=1.0)
    tensor(0.2500)
    """
    return evaluate(lambda x, y: _mean_square(x, y, a=a), logits, target, reduction, own_softmax=True)


def _check_above(name: str, value: float, bound: float) -> None:
    if not bound < value < math.inf:
        raise ValueError(f"{name}={value!r}: expected a number above {bound:g}")


def _generalized(log_p: Tensor, target: Tensor, *, a: float, q: float) -> Tensor:
    _check_above("a", a, 0.0)
    _check_above("q", q, 0.0)
    return expected(lambda x: ((a + 1.0) ** q - (a + x.exp()).pow(q)) / q, log_p, target)


def _unhinged(log_p: Tensor, target: Tensor, *, a: float, q: float) -> Tensor:
    _check_above("a", a, 1.0)
    _check_above("q", q, 0.0)
    return expected(lambda x: ((a - x.exp()).pow(q) - (a - 1.0) ** q) / q, log_p, target)


def _exponential(log_p: Tensor, target: Tensor, *, a: float) -> Tensor:
    _check_above("a", a, 0.0)
    return expected(lambda x: torch.exp(x.exp() / -a), log_p, target)


def _mean_square(log_p: Tensor, target: Tensor, *, a: float) -> Tensor:
    own, squares = class_sums(log_p, target, square_term(a))
    return mean_square(log_p, target, own, squares, a)


def square_term(a: float) -> Square:
    """What :func:`asymmetric_mean_square` sums over the classes, once its option is checked."""
    if not 1.0 <= a < math.inf:
        raise ValueError(f"a={a!r}: expected a number of at least 1")
    return Square()


def mean_square(log_p: Tensor, target: Tensor, own: Tensor, squares: Tensor, a: float) -> Tensor:
    """:func:`asymmetric_mean_square` of each sample, (B,), from its sums."""
    if target.ndim == 1:
        label = a * (a - 2.0 * own.exp())
    else:
        label = expected(lambda x: a * (a - 2.0 * x.exp()), log_p, target)
    return (label + squares) / log_p.shape[1]


class AsymmetricGeneralizedCrossEntropyLoss(LabelLoss):
    """Module form of :func:`asymmetric_generalized_cross_entropy`.

    Args:
        a: Positive.
        q: Positive.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> AsymmetricGeneralizedCrossEntropyLoss(a=1.0, q=1.0)(torch.zeros(1, 2), torch.tensor([0])).item()
    0.5
    """

    _per_sample = staticmethod(_generalized)

    def __init__(self, *, a: float = 0.6, q: float = 0.6, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, a=a, q=q)


class AsymmetricUnhingedLoss(LabelLoss):
    """Module form of :func:`asymmetric_unhinged`.

    Args:
        a: Above 1.
        q: Positive.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> AsymmetricUnhingedLoss(a=2.0, q=1.0)(torch.zeros(1, 2), torch.tensor([0])).item()
    0.5
    """

    _per_sample = staticmethod(_unhinged)

    def __init__(self, *, a: float = 5.5, q: float = 3.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, a=a, q=q)


class AsymmetricExponentialLoss(LabelLoss):
    """Module form of :func:`asymmetric_exponential`.

    Args:
        a: Positive.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> AsymmetricExponentialLoss()
    AsymmetricExponentialLoss(a=2.5, reduction='mean')
    """

    _per_sample = staticmethod(_exponential)

    def __init__(self, *, a: float = 2.5, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, a=a)


class AsymmetricMeanSquareLoss(LabelLoss):
    """Module form of :func:`asymmetric_mean_square`.

    Args:
        a: At least 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> AsymmetricMeanSquareLoss(a=1.0)(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.2500)
    """

    _per_sample = staticmethod(_mean_square)

    @property
    def _own_softmax(self) -> bool:
        return True

    def __init__(self, *, a: float = 30.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, a=a)
