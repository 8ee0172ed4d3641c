"""The streamed cross-entropy of each sample: what comes before and after the pass, in plain autograd."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from etfhead.frames import Frame
from etfhead.frames.streaming import entered
from etfhead.losses._one_block import one_block_losses
from etfhead.losses._operator import check_classes, streamed_cross_entropy

__all__ = ["Method", "Reduction", "check_product_dtype", "reduced", "sample_losses"]

Reduction = Literal["none", "mean", "sum"]
Method = Literal["auto", "bounded", "online"]


def sample_losses(
    features: Tensor,
    target: Tensor,
    frame: Frame,
    *,
    scale: float | Tensor,
    factors: dict[str, Tensor] | None,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    logit_adjustment: Tensor | None = None,
    normalize: bool = False,
    method: Method = "auto",
    block: int | None = None,
    product_dtype: torch.dtype | None = None,
    compiled: bool = False,
    with_prediction: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each sample, its weight in the mean, and its predicted class; all of the target's shape.

    Arguments are those of :func:`~etfhead.losses.frame_cross_entropy`. A prediction is the class of the
    largest logit before ``logit_adjustment``, without meaning if not asked for.
    """
    _check_samples(features, target, frame)
    _check_options(scale, label_smoothing, method)
    if factors is None:
        factors = {name: factor.to(features.device) for name, factor in frame.factors().items()}
    _check_fixed(frame, factors, {"weight": weight, "logit_adjustment": logit_adjustment})
    dtype = torch.promote_types(features.dtype, torch.float32)
    half = _half_products(features, product_dtype)
    with torch.autocast(features.device.type, enabled=False):
        x, bound = features.reshape(-1, frame.in_features).to(dtype), math.inf
        if normalize:
            x = nn.functional.normalize(x, dim=1)
        classes = target.reshape(-1).long()
        counted = classes != ignore_index
        classes = torch.where(counted, classes, 0)
        shares = counted.to(dtype)
        if weight is not None:
            weight = weight.to(dtype)
            # A target out of range is refused in the pass.
            shares = shares * weight[classes.clamp(0, frame.num_classes - 1)]
        smoothing = label_smoothing / frame.num_classes
        pull = (1.0 - label_smoothing) * shares
        spread = smoothing * counted.to(dtype) if smoothing else None
        adjustment = None if logit_adjustment is None else logit_adjustment.to(dtype)
        if method == "auto" and block is None and not half and _has_one_block(x, frame):
            check_classes(classes, frame.num_classes)
            products, gain = frame.shifted_logits(x, {name: factor.to(x) for name, factor in factors.items()})
            factor = gain * torch.as_tensor(scale, dtype=dtype, device=x.device)
            losses = one_block_losses(products, factor, classes, pull, spread, weight, adjustment)
            losses = torch.where(counted, losses, 0.0)
            best = products.detach() if factor > 0 else -products.detach()
            prediction = best.argmax(1) if with_prediction else classes
            return losses.view(target.shape), shares.view(target.shape), prediction.view(target.shape)
        if isinstance(scale, Tensor):
            x = x * scale.to(dtype)
        else:
            x = x * scale
            if normalize and frame.structured:
                bound = abs(scale) * frame.max_norm
        x = entered(x, frame, factors)
        losses, _, prediction = streamed_cross_entropy(
            x,
            classes,
            pull,
            spread,
            frame,
            factors,
            weight if smoothing else None,
            adjustment,
            half,
            compiled,
            method,
            bound,
            block,
            torch.is_grad_enabled() and x.requires_grad,
            with_prediction,
        )
        losses = torch.where(counted, losses, 0.0)
    return losses.view(target.shape), shares.view(target.shape), prediction.view(target.shape)


def check_product_dtype(asked: torch.dtype | None) -> None:
    """Refuse what products cannot be formed in."""
    if asked not in (None, torch.bfloat16, torch.float32):
        raise ValueError(
            f"product_dtype={asked}: expected torch.bfloat16, torch.float32 (float64 features keep theirs), "
            "or None for that of a linear layer"
        )


def _half_products(features: Tensor, asked: torch.dtype | None) -> bool:
    """Whether products are in bfloat16: as asked for, or where a linear layer's would be on a GPU."""
    check_product_dtype(asked)
    if asked is not None or not features.is_cuda:
        return asked == torch.bfloat16
    autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
    return features.dtype == torch.bfloat16 or (autocast and features.dtype != torch.float64)


def _has_one_block(x: Tensor, frame: Frame) -> bool:
    """Whether all classes are one block anyway, as a structured simplex has them, and nothing is compiled.

    On a GPU the pass over blocks is as short.
    """
    whole = frame.structured and frame.free_of_data and frame.block_size >= frame.num_classes
    return whole and len(x) > 0 and not x.is_cuda and not torch.compiler.is_compiling()


def reduced(losses: Tensor, shares: Tensor, reduction: Reduction) -> Tensor:
    """Losses, their sum, or their mean by the samples' weights."""
    if reduction == "mean":
        return losses.sum() / shares.sum()
    if reduction == "sum":
        return losses.sum()
    if reduction == "none":
        return losses
    raise ValueError(f"reduction={reduction!r}: expected 'none', 'mean' or 'sum'")


def _check_samples(features: Tensor, target: Tensor, frame: Frame) -> None:
    if not features.is_floating_point() or features.shape[-1:] != (frame.in_features,):
        raise ValueError(
            f"features: expected floating-point numbers (..., {frame.in_features}), got {features.dtype} "
            f"{tuple(features.shape)}"
        )
    if target.is_floating_point() or target.shape != features.shape[:-1]:
        raise ValueError(
            f"target: expected integer classes {tuple(features.shape[:-1])}, got {target.dtype} "
            f"{tuple(target.shape)}; soft targets need all logits: cross-entropy on frame.logits(features)"
        )


def _check_options(scale: float | Tensor, label_smoothing: float, method: str) -> None:
    if isinstance(scale, Tensor):
        if scale.numel() != 1:
            raise ValueError(f"scale: expected a number or one element, got shape {tuple(scale.shape)}")
    elif not abs(scale) < math.inf:  # math.isfinite cannot be traced once torch.compile has seen two scales
        raise ValueError(f"scale={scale!r}: expected a finite number")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing={label_smoothing!r}: expected a number in [0, 1]")
    if method not in ("auto", "bounded", "online"):
        raise ValueError(f"method={method!r}: expected 'auto', 'bounded' or 'online'")


def _check_fixed(frame: Frame, factors: dict[str, Tensor], classwise: dict[str, Tensor | None]) -> None:
    fixed = {f"factors[{name!r}]": factor for name, factor in factors.items()}
    for name, value in classwise.items():
        if value is not None:
            fixed[name] = value
            if value.shape != (frame.num_classes,):
                raise ValueError(f"{name}: expected shape ({frame.num_classes},), got {tuple(value.shape)}")
    for name, value in fixed.items():
        if value.requires_grad:
            raise ValueError(
                f"{name}: requires a gradient, and only features and scale get one; detach it, or take "
                "cross-entropy on the logits"
            )
