"""Cross-entropy with its logarithm bent: Taylor series, partially Huberised, Poly-1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etfhead.losses._complement import complement
from etfhead.losses._label_loss import LabelLoss, Reduction, evaluate, expected

__all__ = [
    "HuberizedCrossEntropyLoss",
    "PolyCrossEntropyLoss",
    "TaylorCrossEntropyLoss",
    "huberized_cross_entropy",
    "poly_cross_entropy",
    "taylor_cross_entropy",
]


def taylor_cross_entropy(
    logits: Tensor, target: Tensor, *, order: int = 2, reduction: Reduction = "mean"
) -> Tensor:
    r"""The Taylor series of -log p about p = 1, up to some order.

    .. math:: \ell = \sum_{j=1}^{t} \frac{(1 - p_y)^j}{j}

    Feng et al., "Can cross entropy loss be robust to label noise?" (IJCAI 2020). Order 1 is half the mean
    absolute error, the limit is cross-entropy; it is bounded by 1 + 1/2 + ... + 1/t. What is widely shared
    as "Taylor cross-entropy" is another function: cross-entropy of a softmax whose exponentials are series.

    Published: orders 2 to 6 were tried.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        order: t, at least 1.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> taylor_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), order=2)
    tensor(0.6250)
    """
    return evaluate(lambda x, y: _taylor(x, y, order=order), logits, target, reduction)


def huberized_cross_entropy(
    logits: Tensor, target: Tensor, *, tau: float = 2.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""PHuber-CE: cross-entropy that goes on as a line where the label is unlikely.

    .. math:: \ell = \begin{cases} -\log p_y & p_y > 1/\tau \\ -\tau p_y + \log \tau + 1 & \text{else}
              \end{cases}

    Menon et al., "Can gradient clipping mitigate label noise?" (ICLR 2020). Value and slope are continuous.

    Published: tau = 2 (CIFAR-10), 10 (CIFAR-100; 50 in later reproductions).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        tau: Above 1.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> huberized_cross_entropy(torch.zeros(1, 4), torch.tensor([0]), tau=2.0)
    tensor(1.1931)
    """
    return evaluate(lambda x, y: _huberized(x, y, tau=tau), logits, target, reduction)


def poly_cross_entropy(
    logits: Tensor, target: Tensor, *, epsilon: float = 2.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""Poly-1: cross-entropy with another first coefficient of its series in 1 - p.

    .. math:: \ell = -\log p_y + \epsilon (1 - p_y)

    Leng et al., "PolyLoss: a polynomial expansion perspective of classification loss functions" (ICLR 2022,
    arXiv 2204.12511).

    Published: epsilon = 2 (ImageNet), also timm's default.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        epsilon: At least -1: below, the loss falls with the label's probability near 1.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> poly_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), epsilon=1.0)
    tensor(1.1931)
    """
    return evaluate(lambda x, y: _poly(x, y, epsilon=epsilon), logits, target, reduction)


def _taylor(log_p: Tensor, target: Tensor, *, order: int) -> Tensor:
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"order={order!r}: expected an integer of at least 1")

    def of_class(x: Tensor) -> Tensor:
        rest = complement(x)
        total = rest / order
        for j in range(order - 1, 0, -1):
            total = rest * (total + 1.0 / j)
        return total

    return expected(of_class, log_p, target)


def _huberized(log_p: Tensor, target: Tensor, *, tau: float) -> Tensor:
    if not 1.0 < tau < math.inf:
        raise ValueError(f"tau={tau!r}: expected a number above 1")
    bend = -math.log(tau)
    return expected(
        lambda x: torch.where(x > bend, -x, 1.0 - bend - tau * x.clamp(max=bend).exp()), log_p, target
    )


def _poly(log_p: Tensor, target: Tensor, *, epsilon: float) -> Tensor:
    if not -1.0 <= epsilon < math.inf:
        raise ValueError(f"epsilon={epsilon!r}: expected a number of at least -1")
    return expected(lambda x: epsilon * complement(x) - x, log_p, target)


class TaylorCrossEntropyLoss(LabelLoss):
    """Module form of :func:`taylor_cross_entropy`.

    Args:
        order: At least 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> TaylorCrossEntropyLoss(order=1)(torch.zeros(1, 2), torch.tensor([0])).item()
    0.5
    """

    _per_sample = staticmethod(_taylor)

    def __init__(self, *, order: int = 2, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, order=order)


class HuberizedCrossEntropyLoss(LabelLoss):
    """Module form of :func:`huberized_cross_entropy`.

    Args:
        tau: Above 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> HuberizedCrossEntropyLoss(tau=10.0)
    HuberizedCrossEntropyLoss(tau=10.0, reduction='mean')
    """

    _per_sample = staticmethod(_huberized)

    def __init__(self, *, tau: float = 2.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, tau=tau)


class PolyCrossEntropyLoss(LabelLoss):
    """Module form of :func:`poly_cross_entropy`.

    Args:
        epsilon: At least -1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> PolyCrossEntropyLoss()
    PolyCrossEntropyLoss(epsilon=2.0, reduction='mean')
    """

    _per_sample = staticmethod(_poly)

    def __init__(self, *, epsilon: float = 2.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, epsilon=epsilon)
