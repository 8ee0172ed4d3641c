"""Dot-regression: pull each feature to its fixed class vector, push nothing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from etfhead.losses._label_loss import check_range

__all__ = ["DotRegressionLoss", "dot_regression"]

Reduction = Literal["none", "mean", "sum"]


def dot_regression(
    logits: Tensor,
    target: Tensor,
    *,
    target_logit: float = 1.0,
    class_balanced: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared distance of the true class's logit from the value it has at the class vector.

    .. math:: \ell_i = \tfrac12 \Bigl(\frac{z_{i,y_i}}{t} - 1\Bigr)^2

    With features and class vectors of unit norm and t the head's scale, z/t is the cosine to the class
    vector and this is the dot-regression loss of Yang et al., "Do we really need a learnable classifier at
    the end of deep neural network?" (NeurIPS 2022, arXiv 2203.09081) with E_W = E_H = 1. Its released
    code also weighs every class equally inside a batch; that is ``class_balanced=True`` here, and off
    unless asked for, because it changes the objective and not the geometry.

    Args:
        logits: (B, K), from a head with ``normalize=True`` and a fixed scale.
        target: Class indices (B,), or class weights (B, K) as from mixup: the loss is linear in them.
        target_logit: t, the logit of a feature at its class vector: the head's scale.
        class_balanced: Weigh sample i with B / (U n_{y_i}), where n are the batch's class counts (sums of
            class weights for soft targets) and U is how many classes the batch holds.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Returns:
        Tensor: The loss, in float32 or wider.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> round(dot_regression(torch.tensor([[0.5, -0.5]]), torch.tensor([0])).item(), 4)
    0.125
    """
    if logits.ndim != 2:
        raise ValueError(f"logits: expected shape (B, K), got {tuple(logits.shape)}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'none', 'mean' or 'sum'")
    if not target_logit > 0:
        raise ValueError(f"target_logit={target_logit!r}: expected a positive number")
    weights = _class_weights(target, logits)
    error = logits.to(weights.dtype) / target_logit - 1.0
    per_class = 0.5 * error.square() * weights
    if class_balanced:
        counts = weights.sum(0)
        present = counts > 0
        balance = len(logits) / (present.sum() * counts.where(present, 1.0))
        per_class = per_class * balance
    loss = per_class.sum(1)
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _class_weights(target: Tensor, logits: Tensor) -> Tensor:
    """Targets as class weights (B, K), in float32 or wider."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if target.is_floating_point() and target.shape == logits.shape:
        return target.to(dtype)
    if not target.is_floating_point() and target.shape == logits.shape[:1]:
        check_range(target, logits.shape[1])
        return nn.functional.one_hot(target.long(), logits.shape[1]).to(dtype)
    raise ValueError(
        f"target: expected integer classes ({len(logits)},) or float class weights {tuple(logits.shape)}, "
        f"got {target.dtype} {tuple(target.shape)}"
    )


class DotRegressionLoss(nn.Module):
    """Module form of :func:`dot_regression`.

    Args:
        target_logit: The logit of a feature at its class vector: the head's fixed scale.
        class_balanced: Weigh classes equally inside each batch, as the paper's released code does.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer, or (B, K) float.

    >>> loss = DotRegressionLoss()(torch.tensor([[1.0, -1.0]]), torch.tensor([0]))
    >>> loss.item()
    0.0
    """

    def __init__(
        self, target_logit: float = 1.0, class_balanced: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        self.target_logit = target_logit
        self.class_balanced = class_balanced
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        return dot_regression(
            logits,
            target,
            target_logit=self.target_logit,
            class_balanced=self.class_balanced,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        options = ("target_logit", "class_balanced", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)
