"""Label relaxation: any distribution that trusts the label enough is right."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etfhead.losses._label_loss import LabelLoss, Reduction, evaluate, expected

__all__ = ["LabelRelaxationLoss", "label_relaxation"]


def label_relaxation(
    logits: Tensor, target: Tensor, *, alpha: float = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    r"""Divergence from the nearest distribution that gives the label at least 1 - alpha.

    .. math:: \ell = \begin{cases} 0 & p_y \ge 1 - \alpha \\
              (1 - \alpha) \log \frac{1 - \alpha}{p_y} + \alpha \log \frac{\alpha}{1 - p_y} & \text{else}
              \end{cases}

    Lienen & Hüllermeier, "From label smoothing to label relaxation" (AAAI 2021). The other classes share
    alpha as the prediction has them, so nothing is asked of their order. alpha = 0 is cross-entropy.

    Published: alpha = 0.1; in "Memorization-Dilation" (ICLR 2023, arXiv 2206.05530) it is searched in
    0.01 to 0.25.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        alpha: In [0, 1).
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> label_relaxation(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]), reduction="none")
    tensor([0.0000, 0.3681])
    """
    return evaluate(lambda x, y: _per_sample(x, y, alpha=alpha), logits, target, reduction)


def _per_sample(log_p: Tensor, target: Tensor, *, alpha: float) -> Tensor:
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"alpha={alpha!r}: expected a number in [0, 1)")
    if alpha == 0.0:
        return expected(torch.neg, log_p, target)
    enough = math.log1p(-alpha)
    own = -alpha * math.log(alpha) - (1.0 - alpha) * enough

    def of_class(x: Tensor) -> Tensor:
        # Clamped, so that the branch not taken has a finite gradient.
        short = x.clamp(max=enough)
        divergence = -(1.0 - alpha) * short - alpha * torch.log1p(-short.exp()) - own
        return torch.where(x >= enough, 0.0, divergence)  # NaN stays NaN

    return expected(of_class, log_p, target)


class LabelRelaxationLoss(LabelLoss):
    """Module form of :func:`label_relaxation`.

    Args:
        alpha: In [0, 1): what the other classes may have together.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer, or (B, K) float.

    >>> LabelRelaxationLoss(alpha=0.1)(torch.tensor([[3.0, 0.0]]), torch.tensor([0])).item()
    0.0
    """

    _per_sample = staticmethod(_per_sample)

    def __init__(self, *, alpha: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, alpha=alpha)
