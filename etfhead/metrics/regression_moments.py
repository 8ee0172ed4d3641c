"""Sums over features and regression targets that one pass of neural regression collapse needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from etfhead.metrics._checks import checked_batch
from etfhead.metrics.class_moments import ClassMoments, add_batch, empty_moments, merge_moments

__all__ = [
    "RegressionMoments",
    "add_pairs",
    "checked_pairs",
    "empty_regression_moments",
    "merge_regression_moments",
]


class RegressionMoments(NamedTuple):
    r"""What one pass keeps: moments of features beside targets, and products of normalised features.

    The principal components belong to the centred features h, the projected ones are
    :math:`\tilde h = h / \lVert h \rVert`, not centred: two different sums,

    .. math:: \sum_i (x_i - \bar x)(x_i - \bar x)^T \text{ with } x_i = (h_i, y_i), \qquad
              \sum_i \tilde h_i \tilde h_i^T

    Attributes:
        joint: Of (h, y), (d + n) wide, as of one class.
        unit_products: (d, d).
        zero_features: How many h are zero, and stay zero when normalised; ().
    """

    joint: ClassMoments
    unit_products: Tensor
    zero_features: Tensor


def empty_regression_moments(
    num_targets: int,
    in_features: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float64,
) -> RegressionMoments:
    """Moments of no sample.

    Args:
        num_targets: n.
        in_features: d.
        device: Where they are added up.
        dtype: Float64, or float32 on a device that has no other.
    """
    joint = empty_moments(1, in_features + num_targets, device=device, dtype=dtype)
    products = torch.zeros(in_features, in_features, device=device, dtype=dtype)
    return RegressionMoments(joint, products, torch.zeros((), device=device, dtype=torch.int64))


def add_pairs(moments: RegressionMoments, features: Tensor, targets: Tensor) -> None:
    """Add a batch to the moments, in place.

    Args:
        moments: Changed in place.
        features: (B, d), in the moments' type.
        targets: (B, n), in the moments' type.
    """
    one_class = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    add_batch(moments.joint, torch.cat([features, targets], dim=1), one_class)
    # Twice: the squares of features near the limits of the type under- or overflow.
    largest = features.abs().amax(1, keepdim=True)
    zero = largest == 0
    scaled = features / torch.where(zero, 1.0, largest)
    unit = scaled / torch.where(zero, 1.0, scaled.norm(dim=1, keepdim=True))
    moments.unit_products.addmm_(unit.T, unit)
    moments.zero_features.add_(zero.sum())


def merge_regression_moments(first: RegressionMoments, second: RegressionMoments) -> RegressionMoments:
    """Moments of the samples of both."""
    return RegressionMoments(
        merge_moments(first.joint, second.joint),
        first.unit_products + second.unit_products,
        first.zero_features + second.zero_features,
    )


def checked_pairs(
    features: Tensor, targets: Tensor, num_targets: int, in_features: int | None = None
) -> tuple[Tensor, Tensor]:
    """A batch as wide floats (B, d) and (B, n) on the features' device.

    Args:
        features: (B, d), any floating type.
        targets: (B, n), or (B,) for one target; any real type.
        num_targets: n.
        in_features: d of the batches before; None if this is the first.

    Raises:
        ValueError: If a shape or type does not fit, a number is not finite, or n > d.
    """
    count = len(features) if isinstance(features, Tensor) and features.ndim else 0
    wide, _ = checked_batch(features, torch.zeros(count, dtype=torch.int64), 1, in_features)
    if wide.shape[1] < num_targets:
        raise ValueError(
            f"features: {wide.shape[1]} of them cannot hold num_targets={num_targets} directions; expected "
            "at least as many features as targets"
        )
    if isinstance(targets, Tensor) and targets.ndim == 1 and num_targets == 1:
        targets = targets[:, None]
    expected = (len(wide), num_targets)
    if not isinstance(targets, Tensor) or tuple(targets.shape) != expected or targets.is_complex():
        got = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"targets: expected real numbers of shape {expected}, got {got}")
    values = targets.detach().to(wide)
    if not values.isfinite().all():
        bad = (~values.isfinite()).any(1).sum().item()
        raise ValueError(f"targets: {bad} of {len(values)} samples hold NaN or infinity; nothing was added")
    return wide, values
