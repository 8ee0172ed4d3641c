"""Normalised losses that ask which *sample* of the batch a class vector belongs to: NTCE and NONL."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from etfhead.losses._label_loss import check_range

__all__ = ["NONLLoss", "NTCELoss", "nonl", "ntce"]

Reduction = Literal["none", "mean", "sum"]
Negatives = Literal["samples", "classes", "both"]


def ntce(logits: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Cross-entropy of each true class vector over the samples of the batch, instead of over classes.

    .. math:: \ell_i = -\log \frac{e^{z_{i y_i}}}{\sum_{j=1}^{B} e^{z_{j y_i}}}, \qquad
              z_{ik} = \tfrac1\tau \langle \tfrac{w_k}{|w_k|}, \tfrac{h_i}{|h_i|} \rangle

    NTCE of Koromilas et al., "Neural collapse by design" (ICML 2026, arXiv 2605.20302). The logits hold all
    that it needs, so it takes those of any head whose features and class vectors have unit norm, learnable or
    fixed, with a scale of 1 / tau. Other samples of the same class are in the denominator, too. A sample's
    term has weight 1 in the mean; what it is depends on the rest of the batch, and small batches hurt.

    Args:
        logits: z (B, K).
        target: Class indices (B,).
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Returns:
        Tensor: The loss, in float32 or wider.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> z = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> round(ntce(z, torch.tensor([0, 1])).item(), 4)
    0.1269
    """
    wide, target = _checked(logits, target, reduction)
    true = wide.gather(1, target[:, None])[:, 0]
    return _reduced(wide.logsumexp(0)[target] - true, reduction)


def nonl(
    logits: Tensor, target: Tensor, *, negatives: Negatives = "samples", reduction: Reduction = "mean"
) -> Tensor:
    r"""Negatives-only normalised loss: the positive is no part of what it is compared with.

    .. math:: \ell_i = -z_{i y_i} + \log \sum_{j:\, y_j \ne y_i} e^{z_{j y_i}}

    with logits as in :func:`ntce`: NONL of Koromilas et al. (ICML 2026, arXiv 2605.20302). Neither samples of
    the same class nor the sample itself are in the denominator, so pull and push do not fade together. It is
    negative for a good model, at least -2 / tau, and falls without end as the scale grows: keep the scale
    fixed.

    Sums are log-sum-exps. A sample without negatives (a batch of one class) has only the pull, -z.

    Args:
        logits: z (B, K), 1 / tau times cosines.
        target: Class indices (B,).
        negatives: ``"samples"``: those of other classes at the true class vector, as above; ``"classes"``:
            the sample at the other class vectors; ``"both"``: the sum over both.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Returns:
        Tensor: The loss, in float32 or wider; it may be negative.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> z = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> nonl(z, torch.tensor([0, 1])).item()
    -2.0
    """
    if negatives not in ("samples", "classes", "both"):
        raise ValueError(f"negatives={negatives!r}: expected 'samples', 'classes' or 'both'")
    wide, target = _checked(logits, target, reduction)
    true = wide.gather(1, target[:, None])[:, 0]
    others = wide.scatter(1, target[:, None], -torch.inf)
    parts = []
    if negatives != "classes":
        # The log-sum-exp of nothing is -inf, and so would be its gradient: such a column is left at zero.
        some = (others > -torch.inf).any(0)
        columns = others.where(some, 0.0).logsumexp(0)
        parts.append(columns.where(some, -torch.inf)[target])
    if negatives != "samples":
        parts.append(others.logsumexp(1))
    pushed = parts[0] if len(parts) == 1 else torch.logaddexp(*parts)
    return _reduced(pushed.where(pushed > -torch.inf, 0.0) - true, reduction)


def _checked(logits: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    """Logits in float32 or wider, and integer classes."""
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits: expected floats of shape (B, K), got {logits.dtype} {tuple(logits.shape)}")
    if target.is_floating_point() or target.shape != logits.shape[:1]:
        raise ValueError(
            f"target: expected integer classes ({len(logits)},), got {target.dtype} {tuple(target.shape)}; "
            "a mixed target belongs to no one class"
        )
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'none', 'mean' or 'sum'")
    check_range(target, logits.shape[1])
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), target.long()


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


class NTCELoss(nn.Module):
    """Module form of :func:`ntce`; in evaluation mode it is cross-entropy, which needs no batch.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer.

    >>> from etfhead.heads import ETFHead
    >>> head = ETFHead(16, 4, neck=None, normalize=True, scale=10.0, learn_scale=False)
    >>> NTCELoss()(head(torch.randn(8, 16)), torch.arange(8) % 4).shape
    torch.Size([])
    """

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        if self.training:
            return ntce(logits, target, reduction=self.reduction)
        return nn.functional.cross_entropy(
            *_checked(logits, target, self.reduction), reduction=self.reduction
        )

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        return f"reduction={self.reduction!r}"


class NONLLoss(nn.Module):
    """Module form of :func:`nonl`; in evaluation mode it is cross-entropy, which needs no batch.

    Args:
        negatives: ``"samples"``, ``"classes"`` or ``"both"``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer.

    >>> NONLLoss(negatives="classes")(torch.zeros(2, 3), torch.tensor([0, 2])).item()
    0.693147...
    """

    def __init__(self, *, negatives: Negatives = "samples", reduction: Reduction = "mean") -> None:
        super().__init__()
        self.negatives, self.reduction = negatives, reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        if self.training:
            return nonl(logits, target, negatives=self.negatives, reduction=self.reduction)
        return nn.functional.cross_entropy(
            *_checked(logits, target, self.reduction), reduction=self.reduction
        )

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        return f"negatives={self.negatives!r}, reduction={self.reduction!r}"
