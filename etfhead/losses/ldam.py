"""Label-distribution-aware margins: a rare class must be right by more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from etfhead.frames.imbalanced import checked_counts
from etfhead.losses._label_loss import check_range

__all__ = ["LDAMLoss", "ldam", "ldam_margins"]

Reduction = Literal["none", "mean", "sum"]


def ldam_margins(class_counts: Sequence[int] | Tensor, *, max_margin: float = 0.5) -> Tensor:
    """Margins proportional to n_k^(-1/4), ``max_margin`` for the rarest class; (K,) float64 on the CPU.

    >>> ldam_margins([10_000, 625, 1], max_margin=0.5).round(decimals=6).tolist()
    [0.05, 0.1, 0.5]
    """
    if isinstance(max_margin, bool) or not (isinstance(max_margin, int | float) and 0.0 <= max_margin <= 2.0):
        raise ValueError(f"max_margin={max_margin!r}: expected a number in [0, 2], a difference of cosines")
    counts = checked_counts(class_counts)
    return max_margin * (counts.min() / counts).pow(0.25)


def ldam(
    logits: Tensor,
    target: Tensor,
    class_counts: Sequence[int] | Tensor,
    *,
    scale: float | Tensor = 1.0,
    max_margin: float = 0.5,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy after lowering the true class's cosine by a margin that grows as the class gets rarer.

    .. math:: \ell_i = -\log \frac{e^{z_{i y_i} - s \Delta_{y_i}}}
              {e^{z_{i y_i} - s \Delta_{y_i}} + \sum_{k \ne y_i} e^{z_{ik}}}, \qquad
              \Delta_k = \Delta_{\max} \Bigl(\frac{n_{\min}}{n_k}\Bigr)^{1/4}

    Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss" (NeurIPS 2019, arXiv
    1906.07413), whose logits are s = 30 times cosines: take a head with ``normalize=True``, or the learnable
    cosine head. Every sample has weight 1 unless ``weight`` says otherwise; the paper's deferred re-weighting
    is ``weight=effective_number_weights(counts)`` from some epoch on.

    Args:
        logits: z (B, K), s times cosines.
        target: Class indices (B,). Mixed targets have no one margin and are refused.
        class_counts: Training samples of each class, (K,) positive integers.
        scale: s, the head's scale: a number, or its parameter where it learns, which then gets the gradient
            of the margin too.
        max_margin: Margin of the rarest class, in cosines.
        weight: Class weights (K,), as in torch: the mean divides by those of the batch.
        label_smoothing: a in [0, 1], as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Tensor: The loss, in float32 or wider.

    Raises:
        ValueError: If counts, shapes or options do not fit.

    >>> z = torch.tensor([[1.0, 0.5]])
    >>> round(ldam(z, torch.tensor([0]), [1, 1], max_margin=0.5).item(), 4)  # a tie after the margin
    0.6931
    """
    margins = ldam_margins(class_counts, max_margin=max_margin)
    return _with_margins(logits, target, margins, scale, weight, label_smoothing, reduction)


def _with_margins(
    logits: Tensor,
    target: Tensor,
    margins: Tensor,
    scale: float | Tensor,
    weight: Tensor | None,
    label_smoothing: float,
    reduction: str,
) -> Tensor:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits: expected floats of shape (B, K), got {logits.dtype} {tuple(logits.shape)}")
    if logits.shape[1] != len(margins):
        raise ValueError(
            f"class_counts: expected {logits.shape[1]} numbers, one per class, got {len(margins)}"
        )
    if target.is_floating_point() or target.shape != logits.shape[:1]:
        raise ValueError(
            f"target: expected integer classes ({len(logits)},), got {target.dtype} {tuple(target.shape)}; "
            "a mixed target has no one margin"
        )
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'none', 'mean' or 'sum'")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing={label_smoothing!r}: expected a number in [0, 1]")
    check_range(target, logits.shape[1])
    _check_scale(scale)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = target.long()
    if isinstance(scale, Tensor):
        scale = scale.to(wide)
    lowered = -scale * margins.to(wide)[target]
    shifted = wide.scatter_add(1, target[:, None], lowered[:, None])
    if weight is not None:
        weight = weight.to(wide)
    return nn.functional.cross_entropy(
        shifted, target, weight=weight, label_smoothing=label_smoothing, reduction=reduction
    )


def _check_scale(scale: float | Tensor) -> None:
    if isinstance(scale, Tensor):
        fits = scale.numel() == 1
    else:
        fits = isinstance(scale, int | float) and not isinstance(scale, bool) and 0.0 < scale < math.inf
    if not fits:
        raise ValueError(f"scale={scale!r}: expected the head's scale, a positive number or its parameter")


class LDAMLoss(nn.Module):
    """Module form of :func:`ldam`; in evaluation mode there is no margin.

    Args:
        class_counts: Training samples of each class, (K,) positive integers.
        scale: The head's scale: a number, or ``head.scale`` where it learns. It stays the head's: the loss
            has no parameter.
        max_margin: Margin of the rarest class, in cosines.
        weight: Class weights (K,); kept as a buffer that state dicts leave out.
        label_smoothing: a in [0, 1].
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer.

    >>> loss = LDAMLoss([100, 1], scale=2.0)
    >>> z, y = torch.zeros(1, 2), torch.tensor([1])
    >>> round(loss(z, y).item(), 4), round(loss.eval()(z, y).item(), 4)
    (1.3133, 0.6931)
    """

    margins: Tensor
    weight: Tensor | None

    def __init__(
        self,
        class_counts: Sequence[int] | Tensor,
        *,
        scale: float | Tensor = 1.0,
        max_margin: float = 0.5,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        _check_scale(scale)
        self._scale = (scale,)  # in a tuple, so that it does not become a parameter of the loss
        self.register_buffer("margins", ldam_margins(class_counts, max_margin=max_margin), persistent=False)
        self.register_buffer("weight", weight, persistent=False)
        self.max_margin, self.label_smoothing, self.reduction = max_margin, label_smoothing, reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        margins = self.margins if self.training else torch.zeros_like(self.margins)
        (scale,) = self._scale
        return _with_margins(
            logits, target, margins, scale, self.weight, self.label_smoothing, self.reduction
        )

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        options = ("max_margin", "label_smoothing", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)
