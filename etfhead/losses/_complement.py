"""What is left to one, from a log-probability, with all digits of the value and of the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["complement"]


def complement(log_p: Tensor) -> Tensor:
    r"""1 - p from log p, elementwise.

    .. math:: 1 - p = -(e^x - 1), \qquad \frac{\partial}{\partial x} (1 - p) = -e^x

    Of ``expm1`` autograd takes 1 + expm1(x) for the derivative: where p is small, that has the digits of 1,
    0.3 % of p = 1/50,000 in float32.

    >>> x = torch.tensor([0.25]).log().requires_grad_()
    >>> complement(x)
    tensor([0.7500], grad_fn=<_ComplementBackward>)
    """
    if torch.compiler.is_compiling():  # a compiler takes no function with a forward derivative, and fuses
        return torch.where(log_p > -0.5, -torch.expm1(log_p), 1.0 - log_p.exp())
    value: Tensor = _Complement.apply(log_p)
    return value


class _Complement(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(log_p: Tensor) -> Tensor:
        return torch.expm1(log_p).neg_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad * ctx.saved_tensors[0].exp()

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return -tangent * ctx.saved_tensors[0].exp()
