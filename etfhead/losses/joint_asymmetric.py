"""Joint asymmetric loss: normalised cross-entropy and the asymmetric mean square error."""

from __future__ import annotations

import functools

from torch import Tensor

from etfhead.losses._class_sums import class_sums
from etfhead.losses._label_loss import LabelLoss, Reduction, check_not_negative, evaluate
from etfhead.losses.asymmetric import mean_square, square_term
from etfhead.losses.normalized_cross_entropy import active_term, of_label

__all__ = ["JointAsymmetricLoss", "joint_asymmetric"]


def joint_asymmetric(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    a: float = 30.0,
    gamma: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Normalised cross-entropy (or focal loss) plus the asymmetric mean square error.

    .. math:: \ell = \alpha\,\text{NCE} + \frac{\beta}{K} \lVert a\,e_y - p \rVert^2

    Wang et al., "Joint asymmetric loss for learning with noisy labels" (ICCV 2025, arXiv 2507.17692).

    Published: (alpha, beta, a) = (1, 1, 30) for CIFAR-10, (5, 1, 20) for CIFAR-100, with
    :func:`~etfhead.losses.l1_norm` times 5e-5 and 5e-6.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K).
        alpha: Weight of the active loss, at least 0.
        beta: Weight of the asymmetric mean square error, at least 0.
        a: At least 1.
        gamma: Focusing exponent of the active loss (JAL-FL).
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> import torch
    >>> joint_asymmetric(torch.zeros(1, 2), torch.tensor([0]), a=1.0)
    tensor(0.7500)
    """
    per_sample = functools.partial(_joint, alpha=alpha, beta=beta, a=a, gamma=gamma)
    return evaluate(per_sample, logits, target, reduction, own_softmax=True)


def _joint(log_p: Tensor, target: Tensor, *, alpha: float, beta: float, a: float, gamma: float) -> Tensor:
    check_not_negative(alpha=alpha, beta=beta)
    active = active_term(gamma)
    own, squares, total = class_sums(log_p, target, square_term(a), active)
    losses = alpha * of_label(active, log_p, target, own) / total
    return losses + beta * mean_square(log_p, target, own, squares, a)


class JointAsymmetricLoss(LabelLoss):
    """Module form of :func:`joint_asymmetric`.

    Args:
        alpha: Weight of the active loss: 1 published for CIFAR-10, 5 for CIFAR-100.
        beta: Weight of the asymmetric mean square error.
        a: At least 1: 30 and 20.
        gamma: Focusing exponent of the active loss.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> import torch
    >>> JointAsymmetricLoss(a=1.0)(torch.zeros(1, 2), torch.tensor([0])).item()
    0.75
    """

    _per_sample = staticmethod(_joint)

    @property
    def _own_softmax(self) -> bool:
        return True

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        a: float = 30.0,
        gamma: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction, alpha=alpha, beta=beta, a=a, gamma=gamma)
