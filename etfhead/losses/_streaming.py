"""The pass over blocks of classes behind the frame cross-entropy, each block in the cache of a CPU."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from etfhead.frames import Frame
from etfhead.frames.streaming import BlockProducts

__all__ = ["LARGEST_LOGIT", "Sums", "is_bounded", "stream", "weighted_sum"]

# exp(64) = 6e27: float32's 3e38 leaves room for sums over ten million classes and for their products, and
# exp(-64) is a normal number.
LARGEST_LOGIT = 64.0


class Sums(NamedTuple):
    """What is known of each sample after some blocks, each of shape (B,).

    Attributes:
        top: Shift of the exponents: the largest logit so far, or 0 where logits are bounded.
        total: Sum of exp(logit - top).
        target_logit: The target's logit, once its block has passed; NaN before.
        best: The largest logit so far, before any adjustment.
        prediction: And its class.
    """

    top: Tensor
    total: Tensor
    target_logit: Tensor
    best: Tensor
    prediction: Tensor


def stream(
    products: BlockProducts,
    x: Tensor,
    target: Tensor,
    pull: Tensor,
    push: Tensor,
    *,
    adjustment: Tensor | None,
    block: int,
    bounded: bool,
    with_gradient: bool,
    with_prediction: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Of each sample b lse - a z_target, its gradient and the class of the largest m_k . x.

    One pass keeps the sums of exponentials and of exponentials times class vectors; the gradient is

    .. math:: \frac{b}{\sum_k e^{z_k}} \sum_{k \ne y} e^{z_k} m_k
            + \Bigl(\frac{b\,e^{z_y}}{\sum_k e^{z_k}} - a\Bigr) m_y

    The target's part is kept apart: in half precision the difference would drown in the rounding of the first
    sum as soon as samples are learned.

    Args:
        products: The frame's block products; classes are in its stored order.
        x: Entered features (B, d), in the type of the sums.
        target: (B,).
        pull: a (B,).
        push: b (B,); 0 only where a is.
        adjustment: Added to the logits, (K,).
        block: Classes at once.
        bounded: Whether no logit is beyond :data:`LARGEST_LOGIT`: no maxima are needed then.
        with_gradient: Whether to form the gradient.
        with_prediction: Whether to look for the class of the largest m_k . x.

    Returns:
        tuple[Tensor, Tensor, Tensor]: (B,), (B, d) or empty, and (B,), without meaning if not asked for.
    """
    _keep_freed_memory()
    classes = products.frame.num_classes
    lowest = x.new_full((len(x),), 0.0 if bounded else torch.finfo(x.dtype).min)
    zero = torch.zeros_like(lowest)
    # A target that is no class leaves NaN.
    sums = Sums(lowest, zero, zero + math.nan, zero - math.inf, torch.zeros_like(target))
    narrow = x.to(products.dtype)
    # In the last block the whole denominator is known: its targets ride on its product.
    ratio = torch.where(push == 0, 0.0, pull / push)
    others: Tensor | None = None
    in_part = with_gradient and block < classes
    targets = torch.zeros_like(x) if in_part else x
    with_target = _samples_by_block(target, block, classes) if in_part else ()
    for number, start in enumerate(range(0, classes, block)):
        stop = min(start + block, classes)
        e, shrink, sums = _step(
            products.logits(narrow, start, stop),
            None if adjustment is None else adjustment[start:stop],
            target,
            start,
            sums,
            ratio if stop == classes else None,
            products.dtype if with_gradient else None,
            bounded,
            with_prediction,
        )
        if not with_gradient:
            continue
        found = products.adjoint(e, start, stop)
        if others is None:
            others = found.to(x.dtype)
        else:
            others = (others if shrink is None else others.mul_(shrink[:, None])).add_(found)
        if stop < classes and len(rows := with_target[number]):
            chosen = narrow.new_zeros(len(rows), stop - start)
            # The first block holds negative targets too, which are no class.
            chosen.scatter_(1, (target[rows] - start).clamp_(min=0)[:, None], 1.0)
            targets[rows] = products.adjoint(chosen, start, stop).to(x.dtype)
    loss = push * (sums.top + sums.total.log()) - pull * sums.target_logit
    if others is None:
        return loss, x.new_empty(0), sums.prediction
    share = push / sums.total
    gradient = others.mul_(share[:, None])
    if in_part:
        excess = share * torch.exp(sums.target_logit - sums.top) - pull
        gradient.addcmul_(targets, excess[:, None])
    return loss, gradient, sums.prediction


def _step(
    z: Tensor,
    added: Tensor | None,
    target: Tensor,
    start: int,
    sums: Sums,
    ratio: Tensor | None,
    dtype: torch.dtype | None,
    bounded: bool,
    predict: bool,
) -> tuple[Tensor, Tensor | None, Sums]:
    """One block of logits z (B, n), which are overwritten.

    Returns the coefficients of the block's class vectors in ``dtype`` (None if there is no use for them), the
    factor that earlier sums shrink by, and the new sums. A target's coefficient is 0, or, where ``ratio`` is
    given, its exponential less ``ratio`` times the total.
    """
    top, total, target_logit, best, prediction = sums
    z = z.to(total.dtype)
    if predict:
        best, prediction = _improve(z, start, best, prediction)
    if added is not None:
        z = z.add_(added)
    column = target - start
    here = (column >= 0) & (column < z.shape[1])
    column = column.clamp(0, z.shape[1] - 1)[:, None]
    target_logit = torch.where(here, z.gather(1, column)[:, 0], target_logit)
    shrink = None
    if bounded:
        z = z.exp_()
        total = total + z.sum(1)
    else:
        higher = torch.maximum(top, best if predict and added is None else z.amax(1))
        z = z.sub_(higher[:, None]).exp_()
        shrink = torch.exp(top - higher)
        top, total = higher, total * shrink + z.sum(1)
    if dtype is not None:
        own = z.gather(1, column)
        left = 0.0 if ratio is None else own - (ratio * total)[:, None]
        z = z.scatter_(1, column, torch.where(here[:, None], left, own)).to(dtype)
    return z, shrink, Sums(top, total, target_logit, best, prediction)


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc keep up to 64 MB that was freed, from now on.

    It gives back what is free beyond twice the largest piece it has seen freed. Without this the memory of a
    block goes back and forth: page faults took 26 of 87 ms at B = 128, d = 1024, K = 100,000.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def _improve(z: Tensor, start: int, best: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logits so far and their classes."""
    # The index of a maximum costs five times the maximum; few samples improve in a late block.
    high = z.amax(1)
    better = (high > best).nonzero()[:, 0]
    prediction[better] = z[better].max(1).indices + start
    return torch.maximum(best, high), prediction


def _samples_by_block(target: Tensor, block: int, classes: int) -> tuple[Tensor, ...]:
    """Which samples have their target in each block."""
    ordered, samples = target.sort()
    return samples.tensor_split(torch.searchsorted(ordered, torch.arange(block, classes, block)))


def weighted_sum(products: BlockProducts, weight: Tensor, block: int) -> Tensor:
    """Sum of the class vectors with given weights (K,), (d,)."""
    total, classes = weight.new_zeros(products.frame.in_features), len(weight)
    for start in range(0, classes, block):
        stop = min(start + block, classes)
        total += products.adjoint(weight[None, start:stop], start, stop)[0]
    return total


def is_bounded(x: Tensor, frame: Frame, adjustment: Tensor | None, method: str, bound: float) -> bool:
    """Whether exponentials of the logits are safe as they are; a GPU's pass gains nothing by it.

    Args:
        x: Entered features (B, d).
        frame: The frame.
        adjustment: Added to the logits, (K,).
        method: ``"bounded"``, ``"online"`` or ``"auto"``.
        bound: What no inner product exceeds, or infinity if that is not known.
    """
    # Beside a dense product the maxima cannot be seen.
    if method == "online" or (method == "auto" and (x.device.type != "cpu" or not frame.structured)):
        return False
    if bound == math.inf and len(x):
        bound = x.norm(dim=1).max().item() * frame.max_norm
    if adjustment is not None:
        bound += adjustment.abs().max().item()
    if method == "bounded" and not bound <= LARGEST_LOGIT:
        raise ValueError(
            f"method='bounded': logits may reach {bound:.4g}, and float32 is safe up to {LARGEST_LOGIT:g} "
            "(scale x feature norm x largest class vector + largest adjustment); lower the scale, normalise "
            "the features, or take method='auto' or 'online'"
        )
    return bound <= LARGEST_LOGIT
