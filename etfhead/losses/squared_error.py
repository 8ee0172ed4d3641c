"""Squared error to the one-hot row of the class: the loss whose optimum is known at any class counts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from etfhead.losses._label_loss import check_range

__all__ = ["SquaredErrorLoss", "squared_error"]

Reduction = Literal["none", "mean", "sum"]


def squared_error(logits: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Half the squared distance of the logits from the one-hot row of the class.

    .. math:: \ell_i = \tfrac12 \lVert z_i - e_{y_i} \rVert^2

    Its mean over samples is the 1/(2N) ||W H - Y||^2 of unconstrained-features theory (Dang et al. 2023,
    arXiv 2301.00437): K / 2 times ``torch.nn.functional.mse_loss``, which is a mean over the K N numbers.
    Every sample has weight 1.

    Args:
        logits: z (B, K).
        target: Class indices (B,), or class weights (B, K): the loss is the distance from them.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Returns:
        Tensor: The loss, in float32 or wider.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> squared_error(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([0])).item()
    2.0
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits: expected floats of shape (B, K), got {logits.dtype} {tuple(logits.shape)}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'none', 'mean' or 'sum'")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if target.is_floating_point() and target.shape == logits.shape:
        rows = target.to(wide.dtype)
    elif not target.is_floating_point() and target.shape == logits.shape[:1]:
        check_range(target, logits.shape[1])
        rows = torch.zeros_like(wide).scatter(1, target.long()[:, None], 1.0)
    else:
        raise ValueError(
            f"target: expected integer classes ({len(logits)},) or float class weights "
            f"{tuple(logits.shape)}, got {target.dtype} {tuple(target.shape)}"
        )
    loss = 0.5 * (wide - rows).square().sum(1)
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


class SquaredErrorLoss(nn.Module):
    """Module form of :func:`squared_error`.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer, or (B, K) float.

    >>> SquaredErrorLoss()(torch.eye(3), torch.arange(3)).item()
    0.0
    """

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        return squared_error(logits, target, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        return f"reduction={self.reduction!r}"
