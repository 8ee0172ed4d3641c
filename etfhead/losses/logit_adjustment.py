"""Logit adjustment: class frequencies added to the logits in training, or taken from them in prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from etfhead.frames.imbalanced import checked_counts

__all__ = ["LogitAdjustedLoss", "adjust_logits", "log_prior", "logit_adjusted"]

Reduction = Literal["none", "mean", "sum"]


def log_prior(class_counts: Sequence[int] | Tensor, *, tau: float = 1.0) -> Tensor:
    """Tau log(n_k / N), (K,) float64 on the CPU: what logit adjustment adds to the logits.

    ``FrameCrossEntropyLoss(head, logit_adjustment=log_prior(counts).float())`` is the streamed form.

    Args:
        class_counts: Training samples of each class, (K,) positive integers.
        tau: Strength, at least 0.

    Returns:
        Tensor: At most 0.

    Raises:
        ValueError: If a count is not a positive integer, or tau is negative.

    >>> log_prior([3, 1]).exp().round(decimals=6).tolist()
    [0.75, 0.25]
    """
    if isinstance(tau, bool) or not (isinstance(tau, int | float) and 0.0 <= tau < math.inf):
        raise ValueError(
            f"tau={tau!r}: expected a number >= 0; 1 is the theory's, 0 leaves logits as they are"
        )
    counts = checked_counts(class_counts)
    return tau * (counts / counts.sum()).log()


def logit_adjusted(
    logits: Tensor,
    target: Tensor,
    class_counts: Sequence[int] | Tensor,
    *,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of logits plus the log of class frequencies: trained so, plain logits rank fairly.

    .. math:: \ell_i = -\log \frac{n_{y_i}^\tau e^{z_{i y_i}}}{\sum_k n_k^\tau e^{z_{ik}}}

    Minimising it makes argmax z the classifier of least *balanced* error (Menon et al., "Long-tail learning
    via logit adjustment", ICLR 2021, arXiv 2007.07314). tau = 1 is the balanced softmax (Ren et al., NeurIPS
    2020, arXiv 2007.10740). Every sample has weight 1: what changes is the margin between classes, not how
    much a sample counts. Predict with the logits as they are.

    Args:
        logits: (B, K) or (B, K, ...), of any head.
        target: Class indices (B,) or (B, ...), or class weights in the shape of the logits.
        class_counts: Training samples of each class, (K,) positive integers.
        tau: Strength; 0 is plain cross-entropy.
        label_smoothing: a in [0, 1], as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Tensor: The loss, in float32 or wider.

    Raises:
        ValueError: If counts, shapes or options do not fit.

    >>> z = torch.zeros(1, 2)
    >>> [round(logit_adjusted(z, torch.tensor([k]), [3, 1]).exp().item(), 4) for k in (0, 1)]
    [1.3333, 4.0]
    """
    return _adjusted(logits, target, log_prior(class_counts, tau=tau), label_smoothing, reduction)


def _adjusted(
    logits: Tensor, target: Tensor, adjustment: Tensor, label_smoothing: float, reduction: str
) -> Tensor:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'none', 'mean' or 'sum'")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing={label_smoothing!r}: expected a number in [0, 1]")
    shifted = _shifted(logits, adjustment)
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(
                f"target: expected class weights of shape {tuple(logits.shape)}, got {tuple(target.shape)}"
            )
        target = target.to(shifted.dtype)
    elif target.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"target: expected classes of shape {tuple(logits.shape[:1] + logits.shape[2:])}, got "
            f"{tuple(target.shape)}"
        )
    else:
        target = target.long()
    return nn.functional.cross_entropy(shifted, target, label_smoothing=label_smoothing, reduction=reduction)


def _shifted(logits: Tensor, adjustment: Tensor) -> Tensor:
    """Logits (B, K, ...) plus a number a class, in float32 or wider."""
    if logits.ndim < 2 or not logits.is_floating_point():
        raise ValueError(f"logits: expected floats of shape (B, K), got {logits.dtype} {tuple(logits.shape)}")
    if logits.shape[1] != len(adjustment):
        raise ValueError(
            f"class_counts: expected {logits.shape[1]} numbers, one per class, got {len(adjustment)}"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide + adjustment.to(wide).view(-1, *[1] * (logits.ndim - 2))


def adjust_logits(logits: Tensor, class_counts: Sequence[int] | Tensor, *, tau: float = 1.0) -> Tensor:
    r"""Logit adjustment after training: z - tau log(n / N), for a model trained with plain cross-entropy.

    .. math:: \hat y = \arg\max_k \; z_k - \tau \log \tfrac{n_k}{N}

    The other form of Menon et al. 2021 (arXiv 2007.07314). Not for a model trained with
    :func:`logit_adjusted`: that would adjust twice.

    Args:
        logits: (B, K) or (B, K, ...).
        class_counts: Training samples of each class, (K,) positive integers.
        tau: Strength; choose it on validation data.

    Returns:
        Tensor: In float32 or wider, of the logits' shape.

    Raises:
        ValueError: If counts, shapes or tau do not fit.

    >>> adjust_logits(torch.tensor([[1.0, 0.5]]), [3, 1]).argmax(1).item()
    1
    """
    return _shifted(logits, -log_prior(class_counts, tau=tau))


class LogitAdjustedLoss(nn.Module):
    """Module form of :func:`logit_adjusted`; in evaluation mode it is plain cross-entropy.

    Args:
        class_counts: Training samples of each class, (K,) positive integers.
        tau: Strength; 1 is the balanced softmax.
        label_smoothing: a in [0, 1].
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K) or (B, K, ...).
        - target: (B,) or (B, ...) integer, or floats in the shape of the logits.

    >>> loss = LogitAdjustedLoss([90, 10])
    >>> z, y = torch.zeros(1, 2), torch.tensor([1])
    >>> round(loss(z, y).item(), 4), round(loss.eval()(z, y).item(), 4)
    (2.3026, 0.6931)
    """

    adjustment: Tensor

    def __init__(
        self,
        class_counts: Sequence[int] | Tensor,
        *,
        tau: float = 1.0,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.register_buffer("adjustment", log_prior(class_counts, tau=tau), persistent=False)
        self.tau, self.label_smoothing, self.reduction = tau, label_smoothing, reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        adjustment = self.adjustment if self.training else torch.zeros_like(self.adjustment)
        return _adjusted(logits, target, adjustment, self.label_smoothing, self.reduction)

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        options = ("tau", "label_smoothing", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)
