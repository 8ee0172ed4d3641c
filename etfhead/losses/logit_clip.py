"""Logits clipped in norm before any loss."""

from __future__ import annotations

import math
from typing import Any

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
    if torch.compiler.is_compiling():  # a compiler fuses by itself
        return wide * _factors(wide, max_norm)
    clipped: Tensor = _Clip.apply(wide, max_norm)[0]
    return clipped


def _factors(logits: Tensor, max_norm: float) -> Tensor:
    norms = torch.linalg.vector_norm(logits, dim=-1, keepdim=True)
    return max_norm / norms.clamp(min=max_norm)


class _Clip(torch.autograd.Function):
    """The product with its gradient in two passes; plain autograd fills four buffers."""

    @staticmethod
    def forward(logits: Tensor, max_norm: float) -> tuple[Tensor, Tensor]:
        factors = _factors(logits, max_norm)
        return logits * factors, factors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, ctx.max_norm = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(logits, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        logits, factors = ctx.saved_tensors
        again = torch.is_grad_enabled()  # to be differentiated once more
        factors = _factors(logits, ctx.max_norm) if again else factors
        product = grad * logits
        along = product.sum(-1, keepdim=True)
        # Where it clips, the derivative of tau / |z| is -tau z / |z|^3.
        bend = torch.where(factors < 1.0, along * factors**3 / ctx.max_norm**2, 0.0)
        if again:
            return grad * factors - logits * bend, None
        return torch.mul(logits, -bend, out=product).addcmul_(grad, factors), None


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
