"""Cross-entropy of logits that are all there at once, in three passes over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etfhead.losses._operator import Once

__all__ = ["one_block_losses"]


def one_block_losses(
    products: Tensor,
    scale: Tensor,
    target: Tensor,
    pull: Tensor,
    spread: Tensor | None = None,
    weight: Tensor | None = None,
    adjustment: Tensor | None = None,
) -> Tensor:
    r"""Losses of scaled inner products, which may be off by a number a sample: cross-entropy cannot see it.

    .. math:: \ell_i = a_i (\mathrm{lse}_i - z_{i y_i}) + b_i \sum_k w_k (\mathrm{lse}_i - z_{ik}),
            \qquad z_{ik} = s\,p_{ik} + c_k

    One buffer becomes log-probabilities, then the gradient; autograd of the same formula fills five.
    Gradients go to the products and to the scale, once.

    Args:
        products: p (B, K), in float32 or wider.
        scale: s, one element.
        target: Classes y (B,); any valid one where a sample is ignored.
        pull: a (B,); 0 where a sample is ignored.
        spread: b (B,), or None for zeros.
        weight: w (K,), or None for ones.
        adjustment: c (K,), or None for zeros.

    Returns:
        Tensor: (B,).

    >>> z, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    >>> losses = one_block_losses(z, torch.ones(1), y, torch.ones(4))
    >>> torch.allclose(losses, torch.nn.functional.cross_entropy(z, y, reduction="none"))
    True
    """
    losses: Tensor = _Losses.apply(products, scale, target, pull, spread, weight, adjustment)
    return losses


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        products: Tensor,
        scale: Tensor,
        target: Tensor,
        pull: Tensor,
        spread: Tensor | None,
        weight: Tensor | None,
        adjustment: Tensor | None,
    ) -> Tensor:
        z = products * scale
        if adjustment is not None:
            z += adjustment
        logp = torch.log_softmax(z, 1)
        del z
        column = target[:, None]
        losses = -pull * logp.gather(1, column)[:, 0]
        push = pull
        if spread is not None:
            weight = products.new_ones(products.shape[1]) if weight is None else weight
            losses -= spread * (logp @ weight)
            push = pull + spread * weight.sum()
        slope = logp.exp_()
        if spread is not None or bool(pull.ne(1).any()):
            slope *= push[:, None]
        slope.scatter_add_(1, column, -pull[:, None])
        if spread is not None and weight is not None:
            slope.addr_(spread, weight, alpha=-1.0)
        ctx.save_for_backward(slope, products, scale)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, products, scale = ctx.saved_tensors
        to_products = to_scale = None
        if ctx.needs_input_grad[1]:
            by_sample = torch.linalg.vecdot(slope, products.detach())[:, None]
            to_scale = Once.apply(grad, by_sample, products).sum().view(scale.shape)
        if ctx.needs_input_grad[0]:
            to_products = Once.apply(grad * scale.detach(), slope, products)
        return to_products, to_scale, *[None] * 5
