"""The dot loss: minus the cosine to the class vector, a symmetric loss by the frame's geometry."""

from __future__ import annotations

from torch import Tensor

from etfhead.losses._label_loss import LabelLoss, Reduction, evaluate, expected

__all__ = ["ETFDotLoss", "etf_dot"]


def etf_dot(
    logits: Tensor, target: Tensor, *, target_logit: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""Minus the label's logit, as a share of the value it has at the class vector.

    .. math:: \ell = -\frac{z_y}{t} = -\langle w_y, h \rangle

    with unit features h and unit class vectors w. Those of a simplex sum to zero, so the losses of all labels
    sum to zero for any h: the condition under which uniform label noise below (K - 1)/K leaves the minimiser
    where it is (Ghosh, Kumar & Sastry, AAAI 2017), met by geometry and without a softmax. Squared
    dot-regression (:func:`~etfhead.losses.dot_regression`) meets it too for unit features inside the frame's
    span. With logits of a learnable layer, or of features whose norm is free, the loss has no lower bound.

    Args:
        logits: (B, K), from a head with a simplex frame, ``normalize=True`` and a fixed scale.
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        target_logit: t, the logit of a feature at its class vector: the head's scale.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Returns:
        Tensor: From -1, at the class vector, to 1.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> import torch
    >>> etf_dot(torch.tensor([[0.5, -0.5]]), torch.tensor([1])).item()
    0.5
    """
    return evaluate(
        lambda x, y: _per_sample(x, y, target_logit=target_logit),
        logits,
        target,
        reduction,
        log_space=False,
    )


def _per_sample(logits: Tensor, target: Tensor, *, target_logit: float) -> Tensor:
    if not target_logit > 0:
        raise ValueError(f"target_logit={target_logit!r}: expected a positive number")
    return expected(lambda z: z / -target_logit, logits, target)


class ETFDotLoss(LabelLoss):
    """Module form of :func:`etf_dot`.

    Args:
        target_logit: The logit of a feature at its class vector: the head's fixed scale.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer, or (B, K) float.

    >>> import torch
    >>> ETFDotLoss()(torch.tensor([[1.0, -1.0]]), torch.tensor([0])).item()
    -1.0
    """

    _per_sample = staticmethod(_per_sample)
    _log_space = False

    def __init__(self, *, target_logit: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, target_logit=target_logit)
