"""The pass over blocks of classes where kernels, not caches, decide: few of them, each over a large block."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from etfhead.frames.streaming import BlockProducts
from etfhead.losses._streaming import Sums

__all__ = ["stream_by_softmax"]


def stream_by_softmax(
    products: BlockProducts,
    x: Tensor,
    target: Tensor,
    pull: Tensor,
    push: Tensor,
    *,
    adjustment: Tensor | None,
    block: int,
    with_gradient: bool,
    with_prediction: bool,
    compiled: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""What :func:`~etfhead.losses._streaming.stream` gives, from the softmax of each block.

    With :math:`p_k` the probabilities within a block, :math:`h` its largest logit and
    :math:`\sigma = 1 / \max_k p_k`, :math:`e^{z_k - t} = e^{h - t} \sigma\, p_k` for any shift t: the softmax
    is one kernel, and the blocks' products are joined with factors of shape (B,). Nothing is read back.

    Args:
        products: The frame's block products; classes are in its stored order.
        x: Entered features (B, d), in the type of the sums.
        target: (B,); NaN is the loss of one that is no class.
        pull: a (B,).
        push: b (B,); 0 only where a is.
        adjustment: Added to the logits, (K,).
        block: Classes at once.
        with_gradient: Whether to form the gradient.
        with_prediction: Whether to look for the class of the largest m_k . x.
        compiled: Make two kernels of the dozen of a block's elementwise operations.

    Returns:
        tuple[Tensor, Tensor, Tensor]: (B,), (B, d) or empty, and (B,), without meaning if not asked for.
    """
    classes = products.frame.num_classes
    step = _compiled_step() if compiled else _step
    zero = x.new_zeros(len(x))
    lowest = torch.full_like(zero, torch.finfo(x.dtype).min)
    if adjustment is not None:
        adjustment = adjustment.clamp(min=torch.finfo(x.dtype).min)  # a block of -inf alone has no softmax
    sums = Sums(lowest, zero, zero + math.nan, zero - math.inf, torch.zeros_like(target))
    narrow = x.to(products.dtype)
    others: Tensor | None = None
    for start in range(0, classes, block):
        stop = min(start + block, classes)
        p, shrink, grow, sums = step(
            products.logits(narrow, start, stop),
            None if adjustment is None else adjustment[start:stop],
            target - start,
            start,
            sums,
            products.dtype if with_gradient else None,
            with_prediction,
        )
        if p is not None:
            found = products.adjoint(p, start, stop).to(x.dtype).mul_(grow[:, None])
            others = found if others is None else found.addcmul_(others, shrink[:, None])
    if adjustment is not None:
        sums = sums._replace(
            target_logit=sums.target_logit.masked_fill(sums.target_logit <= lowest, -math.inf)
        )
    loss = push * (sums.top + sums.total.log()) - pull * sums.target_logit
    if others is None:
        return loss, x.new_empty(0), sums.prediction
    # The target's part is kept apart: see stream().
    share = push / sums.total
    excess = share * torch.exp(sums.target_logit - sums.top) - pull
    own = products.vectors(target.clamp(0, classes - 1), x.dtype)
    return loss, others.mul_(share[:, None]).addcmul_(own, excess[:, None]), sums.prediction


def _step(
    z: Tensor,
    added: Tensor | None,
    column: Tensor,
    start: int,
    sums: Sums,
    dtype: torch.dtype | None,
    predict: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Sums]:
    """One block of logits z (B, n), whose targets are at ``column`` where that is one of its columns.

    Returns the probabilities within the block in ``dtype`` with 0 at the target (None if there is no use for
    them), the factors of earlier sums and of this one, and the new sums.
    """
    top, total, target_logit, best, prediction = sums
    high, where = z.max(1)
    if predict:
        better = high > best
        prediction = torch.where(better, where + start, prediction)
        best = torch.where(better, high.to(best.dtype), best)
    if added is not None:
        z = z.to(total.dtype) + added
        high, where = z.max(1)
    here = (column >= 0) & (column < z.shape[1])
    column = column.clamp(0, z.shape[1] - 1)[:, None]
    target_logit = torch.where(here, z.gather(1, column)[:, 0].to(total.dtype), target_logit)
    p = torch.softmax(z, 1, dtype=total.dtype)
    del z  # the largest tensors here: three of them need not be held at once
    high = high.to(total.dtype)
    higher = torch.maximum(top, high)
    shrink = torch.exp(top - higher)
    grow = torch.exp(high - higher) / p.gather(1, where[:, None])[:, 0]
    total = total * shrink + grow
    sums = Sums(higher, total, target_logit, best, prediction)
    if dtype is None:
        return None, shrink, grow, sums
    p = p.to(dtype)
    return p.scatter_(1, column, p.gather(1, column).masked_fill(here[:, None], 0.0)), shrink, grow, sums


@functools.cache
def _compiled_step() -> Callable[..., tuple[Tensor | None, Tensor, Tensor, Sums]]:
    return torch.compile(_step, dynamic=True)
