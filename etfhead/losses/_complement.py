"""What is left to one, from a log-probability, with all digits of the value and of the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["complement"]


def complement(log_p: Tensor) -> Tensor:
    r"""1 - p from log p, elementwise.

    .. math:: 1 - p = -(e^x - 1), \qquad \frac{\partial}{\partial x} (1 - p) = -e^x

    Of ``expm1`` autograd takes 1 + expm1(x) for the derivative: where p is small, that has the digits of 1,
    0.3 % of p = 1/50,000 in float32.

    >>> x = torch.tensor([0.25]).log().requires_grad_()
    >>> complement(x).backward()
    >>> x.grad
    tensor([-0.2500])
    """
    p = log_p.exp()
    # The value is expm1's; what is added is zero, and has the derivative of -p.
    return (p.detach() - p) - torch.expm1(log_p.detach())
