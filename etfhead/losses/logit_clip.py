"""Logits clipped in norm before any loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["LogitClipLoss", "logit_clip"]


def logit_clip(logits: Tensor, *, max_norm: float = 1.0) -> Tensor:
    r"""Logits shortened to a largest norm, their direction kept.

    .. math:: z \min\Bigl(1, \frac{\tau}{\lVert z \rVert}\Bigr)

    Wei et al., "Mitigating memorization of noisy labels by clipping the model prediction" (ICML 2023, arXiv
    2212.04055). A bounded logit vector bounds every loss of it. This is continuous; the published code
    compares the norm with 1/tau and then sets it to tau, a jump unless tau = 1. Unit features times a unit
    simplex with scale s have |z| <= s sqrt(K/(K - 1)): such a head needs no clipping.

    Published: the released settings clip to norms from 1 to 2.5, by data set and loss.

    Args:
        logits: (B, K).
        max_norm: tau, positive.

    Returns:
        Tensor: (B, K), in float32 or wider.

    Raises:
        ValueError: If the option does not fit.

    >>> logit_clip(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    if not 0.0 < max_norm < math.inf:
        raise ValueError(f"max_norm={max_norm!r}: expected a positive number")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    norms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return wide * (max_norm / norms.clamp(min=max_norm))


class LogitClipLoss(nn.Module):
    """Any loss of logits, behind :func:`logit_clip`.

    Args:
        loss: Called with clipped logits and what else it is given.
        max_norm: tau, positive.

    >>> LogitClipLoss(nn.CrossEntropyLoss())(torch.tensor([[300.0, 400.0]]), torch.tensor([0]))
    tensor(0.7981)
    """

    def __init__(self, loss: nn.Module, *, max_norm: float = 1.0) -> None:
        super().__init__()
        self.loss, self.max_norm = loss, max_norm
        logit_clip(torch.zeros(1, 2), max_norm=max_norm)

    def forward(self, logits: Tensor, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """The loss of a batch."""
        value: Tensor = self.loss(logit_clip(logits, max_norm=self.max_norm), *args, **kwargs)
        return value

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        return f"max_norm={self.max_norm!r}"
