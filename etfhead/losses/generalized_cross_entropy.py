"""Generalised cross-entropy: between cross-entropy and mean absolute error, whole or truncated."""

from __future__ import annotations

import math

from torch import Tensor

from etfhead.losses._complement import complement
from etfhead.losses._label_loss import LabelLoss, Reduction, evaluate, expected

__all__ = ["GeneralizedCrossEntropyLoss", "generalized_cross_entropy"]


def generalized_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    q: float = 0.7,
    truncation: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Box-Cox transform of the label's probability.

    .. math:: \ell = \frac{1 - p_y^q}{q}

    Zhang & Sabuncu, "Generalized cross entropy loss for training deep neural networks with noisy labels"
    (NeurIPS 2018, arXiv 1805.07836). q = 0 is cross-entropy, q = 1 is 1 - p_y, half the mean absolute error.
    The gradient is p_y^q times that of cross-entropy: unlikely labels are trusted less. ``truncation`` k
    makes the loss (1 - k^q)/q, a constant, for p_y <= k: such samples no longer teach. At the start no label
    has p_y > k, so set it after some epochs.

    Whether a sample teaches is asked anew at every step. The paper also asks in turns: it prunes by a pass
    over the whole training set every few epochs, and keeps the answer in between. That is left to the
    training loop: take ``reduction="none"`` without truncation, and multiply by the p_y > k of such a pass.

    Published: q = 0.7 (CIFAR-10, CIFAR-100, Fashion-MNIST); later work takes 0.6 for WebVision and
    Clothing1M. Truncated: k = 0.5 from epoch 40.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K): the loss is linear in them.
        q: In [0, 1].
        truncation: k in (0, 1); None truncates nothing.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> import torch
    >>> generalized_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), q=1.0)
    tensor(0.5000)
    """
    return evaluate(lambda x, y: _per_sample(x, y, q=q, truncation=truncation), logits, target, reduction)


def _per_sample(log_p: Tensor, target: Tensor, *, q: float, truncation: float | None) -> Tensor:
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q={q!r}: expected a number in [0, 1]")
    if truncation is not None and not 0.0 < truncation < 1.0:
        raise ValueError(f"truncation={truncation!r}: expected a probability between 0 and 1, or None")

    def of_class(x: Tensor) -> Tensor:
        if truncation is not None:
            x = x.clamp(min=math.log(truncation))
        return complement(q * x) / q if q else -x

    return expected(of_class, log_p, target)


class GeneralizedCrossEntropyLoss(LabelLoss):
    """Module form of :func:`generalized_cross_entropy`.

    Args:
        q: In [0, 1]: 0 is cross-entropy, 1 half the mean absolute error.
        truncation: Probability up to which a label teaches nothing; None, or set it later as an attribute.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer, or (B, K) float.

    >>> loss = GeneralizedCrossEntropyLoss()
    >>> loss.truncation = 0.5  # after 40 epochs
    >>> loss
    GeneralizedCrossEntropyLoss(q=0.7, truncation=0.5, reduction='mean')
    """

    _per_sample = staticmethod(_per_sample)

    def __init__(
        self, *, q: float = 0.7, truncation: float | None = None, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction, q=q, truncation=truncation)
