"""The streamed cross-entropy for autograd and torch.compile."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from etfhead.frames import Frame
from etfhead.frames.base import frames_by_id
from etfhead.frames.streaming import BlockProducts, block_grid, block_products, inverse, stored_order
from etfhead.losses._gpu_streaming import stream_by_softmax
from etfhead.losses._streaming import is_bounded, stream, weighted_sum

__all__ = ["Once", "check_classes", "streamed_cross_entropy"]


def streamed_cross_entropy(
    x: Tensor,
    target: Tensor,
    pull: Tensor,
    spread: Tensor | None,
    frame: Frame,
    factors: dict[str, Tensor],
    weight: Tensor | None,
    adjustment: Tensor | None,
    half: bool,
    compiled: bool,
    method: str,
    bound: float,
    block: int | None,
    with_gradient: bool,
    with_prediction: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Loss, its gradient and the predicted class of every sample in one pass over the classes.

    .. math:: \ell_i = a_i (\mathrm{lse}_i - z_{i y_i}) + b_i \sum_k w_k (\mathrm{lse}_i - z_{ik}),
            \qquad z_{ik} = m_k \cdot x_i + c_k

    The only gradient is the one to x. The scale, the normalisation and the way into the frame come before x,
    in plain autograd: they are of size B x d.

    Args:
        x: Features that have been scaled and have entered the frame, (B, d), in the type of the results.
        target: Classes y (B,); any valid one where a sample is ignored.
        pull: a (B,); 0 where a sample is ignored.
        spread: b (B,), or None for zeros.
        frame: The frame.
        factors: Its factors.
        weight: w (K,), at least 0, or None for ones.
        adjustment: c (K,), or None for zeros.
        half: Form the block products in bfloat16.
        compiled: Compile the elementwise part of a GPU's pass.
        method: ``"bounded"``, ``"online"`` or ``"auto"``.
        bound: What no abs(m_k . x_i) exceeds, or infinity if that is not known.
        block: Classes in a block, or None for the default.
        with_gradient: Whether to form the gradient.
        with_prediction: Whether to look for the class with the largest m_k . x_i.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Losses (B,), their gradients with respect to x (B, d), and predictions
        (B,). A gradient not asked for has no elements, a prediction not asked for no meaning.
    """
    options = (weight, adjustment, half, compiled, method, bound, block, with_gradient, with_prediction)
    if torch.compiler.is_compiling():
        # The compiled code is guarded by the frame's identity: its id() is a constant there.
        named = (list(factors.values()), " ".join(factors))
        return _operator(x, target, pull, spread, *named, id(frame), *options)
    # The operator would do as well, but its first call loads torch's compiler: seconds, and 150 MB.
    return _Streamed.apply(x, target, pull, spread, frame, factors, *options)


def _run(
    x: Tensor,
    target: Tensor,
    pull: Tensor,
    spread: Tensor | None,
    frame: Frame,
    factors: dict[str, Tensor],
    weight: Tensor | None,
    adjustment: Tensor | None,
    half: bool,
    compiled: bool,
    method: str,
    bound: float,
    block: int | None,
    with_gradient: bool,
    with_prediction: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if not target.is_cuda and len(target):
        check_classes(target, frame.num_classes)
    with torch.autocast(x.device.type, enabled=False):
        order = stored_order(frame, factors, x.device)
        if order is not None:
            known = (target >= 0) & (target < frame.num_classes)  # no other index, which stops a GPU for good
            target = torch.where(known, order[torch.where(known, target, 0)], -1)
            weight, adjustment = (
                None if v is None else torch.empty_like(v).scatter_(0, order, v) for v in (weight, adjustment)
            )
        push = pull
        if spread is not None:
            weight = x.new_ones(frame.num_classes) if weight is None else weight
            push = pull + spread * weight.sum()
        products = block_products(frame, factors, torch.bfloat16 if half else x.dtype)
        bounded = is_bounded(x, frame, adjustment, method, bound)
        if x.device.type == "cpu":
            one_pass = functools.partial(stream, bounded=bounded)
        else:
            one_pass = functools.partial(stream_by_softmax, compiled=compiled)
        rows, block = block_grid(frame, len(x), x.device, block)
        parts = [
            one_pass(
                products,
                *samples,
                adjustment=adjustment,
                block=block,
                with_gradient=with_gradient,
                with_prediction=with_prediction,
            )
            for samples in zip(*(v.split(rows) for v in (x, target, pull, push)), strict=True)
        ]
        loss, gradient, prediction = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        if spread is not None and weight is not None:
            # The sum of all logits is one inner product with the sum of all class vectors.
            centre = weighted_sum(BlockProducts(frame, factors, x.dtype), weight, block)
            shift = 0.0 if adjustment is None else weight @ adjustment
            loss -= spread * (x @ centre + shift)
            if with_gradient:
                gradient.addr_(spread, centre, alpha=-1.0)
        return (
            loss,
            gradient,
            prediction if order is None or not with_prediction else inverse(order)[prediction],
        )


def check_classes(target: Tensor, classes: int) -> None:
    """Refuse targets that are no class; this reads numbers back, so not for a GPU's."""
    low, high = (bound.item() for bound in target.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"target: expected classes from 0 to {classes - 1} or ignore_index, got "
            f"{low if low < 0 else high}"
        )


class Once(torch.autograd.Function):
    """The gradient times what comes from above; to differentiate it again would need the logits again."""

    @staticmethod
    def forward(ctx: Any, grad_loss: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
        return grad_loss[:, None] * gradient

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "frame_cross_entropy has no second derivative; cross-entropy on frame.logits(features) has"
        )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, gradient, prediction = output
    ctx.mark_non_differentiable(gradient, prediction)
    # x is an input of Once so that a second derivative fails, also where grad_loss does not depend on it.
    ctx.save_for_backward(gradient, inputs[0])


class _Streamed(torch.autograd.Function):
    """The pass in eager mode."""

    forward = staticmethod(_run)
    setup_context = staticmethod(_save)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
        return (Once.apply(grad_loss, *ctx.saved_tensors), *[None] * 14)


# ``method="bounded"`` reads a number of a GPU back: no CUDA graph may hold that.
@torch.library.custom_op(
    "etfhead::streamed_cross_entropy", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,)
)
def _operator(
    x: Tensor,
    target: Tensor,
    pull: Tensor,
    spread: Tensor | None,
    factors: list[Tensor],
    names: str,
    frame: int,
    weight: Tensor | None,
    adjustment: Tensor | None,
    half: bool,
    compiled: bool,
    method: str,
    bound: float,
    block: int | None,
    with_gradient: bool,
    with_prediction: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The pass in a compiled graph."""
    named = dict(zip(names.split(), factors, strict=True))
    options = (weight, adjustment, half, compiled, method, bound, block, with_gradient, with_prediction)
    return _run(x, target, pull, spread, frames_by_id[frame], named, *options)


@_operator.register_fake
def _shapes(x: Tensor, target: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    with_gradient = args[-2]
    return x.new_empty(len(x)), x.new_empty(x.shape if with_gradient else 0), torch.empty_like(target)


def _save_and_count(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _save(ctx, inputs, output)
    ctx.num_factors = len(inputs[4])


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
    grad_x = Once.apply(grad_loss, *ctx.saved_tensors)
    return (grad_x, None, None, None, [None] * ctx.num_factors, *[None] * 11)


_operator.register_autograd(_backward, setup_context=_save_and_count)
