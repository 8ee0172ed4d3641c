"""How far to stretch unit class vectors so that cross-entropy is content exactly at the frame."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["auto_scale", "resolve_scale"]

# Without smoothing the best scale is infinite. One percent is the smoothing whose optimum puts 99 % on the
# true class: large enough to separate, small enough that gradients do not vanish from the first step.
_SMOOTHING_FLOOR = 0.01


def auto_scale(num_classes: int, label_smoothing: float = 0.0) -> float:
    r"""Scale at which label-smoothed cross-entropy on a simplex frame is minimal at the frame itself.

    For unit features the logits of a sample at its class vector are s and -s/(K-1); the smoothed target
    asks for a log-ratio ln(1 + K(1-a)/a), hence

    .. math:: s = \ln\!\Bigl(1 + \frac{K(1-a)}{a}\Bigr)\,\frac{K-1}{K}

    Args:
        num_classes: K, at least 2.
        label_smoothing: a in [0, 1); values below 0.01 count as 0.01, where the formula would diverge.

    Returns:
        float: s > 0.

    >>> round(auto_scale(10, 0.1), 4)
    4.0598
    >>> auto_scale(1000) > auto_scale(10)
    True
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: expected at least 2")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing={label_smoothing}: expected a number in [0, 1)")
    a = max(label_smoothing, _SMOOTHING_FLOOR)
    return math.log1p(num_classes * (1.0 - a) / a) * (num_classes - 1) / num_classes


def resolve_scale(
    scale: float | Literal["auto"], num_classes: int, label_smoothing: float, *, unit_features: bool
) -> float:
    """The number behind ``scale``: checked if given, :func:`auto_scale` for unit features, else 1."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing={label_smoothing}: expected a number in [0, 1)")
    if scale == "auto":
        return auto_scale(num_classes, label_smoothing) if unit_features else 1.0
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0.0 < scale < math.inf:
        raise ValueError(f"scale={scale!r}: expected 'auto' or a positive number")
    return float(scale)
