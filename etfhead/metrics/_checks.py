"""What every metric over features asks of a batch before it adds anything."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["checked_batch", "checked_vectors", "wide_dtype"]


def wide_dtype(device: torch.device) -> torch.dtype:
    """Float64, in which sums keep their digits; float32 on Apple's GPUs, which have no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def checked_batch(
    features: Tensor, labels: Tensor, num_classes: int, in_features: int | None = None
) -> tuple[Tensor, Tensor]:
    """A batch as wide floats (B, d) and int64 classes (B,) on the features' device.

    Args:
        features: (B, d), any floating type.
        labels: (B,), integers from 0 to K - 1.
        num_classes: K.
        in_features: d of the batches before; None if this is the first.

    Raises:
        ValueError: If a shape or type does not fit, a class is out of range, or a feature is not finite.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        raise ValueError(
            f"features: expected floats of shape (B, d), got {_describe(features)}; pool or flatten first"
        )
    if in_features is not None and features.shape[1] != in_features:
        raise ValueError(
            f"features: expected {in_features} features, as in the batches before, got {features.shape[1]}; "
            "reset() before measuring another layer"
        )
    integral = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.dtype == torch.bool)
    if not integral or labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels: expected {len(features)} integer classes, shape ({len(features)},), "
            f"got {_describe(labels)}"
        )
    labels = labels.detach().to(features.device, torch.int64)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels: expected classes from 0 to {num_classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}; leave out ignored samples first"
        )
    features = features.detach()
    if not features.isfinite().all():
        bad = (~features.isfinite()).any(1).sum().item()
        raise ValueError(
            f"features: {bad} of {len(features)} samples hold NaN or infinity; nothing was added"
        )
    return features.to(wide_dtype(features.device)), labels


def checked_vectors(
    argument: str, vectors: Tensor, num_classes: int, in_features: int | None = None
) -> Tensor:
    """Class vectors or class centres (K, d) as wide floats, detached.

    Raises:
        ValueError: If the shape does not fit or a number is not finite.
    """
    fits = isinstance(vectors, Tensor) and vectors.ndim == 2 and len(vectors) == num_classes
    if not fits or (in_features is not None and vectors.shape[1] != in_features):
        width = "d" if in_features is None else in_features
        raise ValueError(f"{argument}: expected shape ({num_classes}, {width}), got {_describe(vectors)}")
    if not vectors.isfinite().all():
        raise ValueError(f"{argument}: holds NaN or infinity")
    return vectors.detach().to(wide_dtype(vectors.device))


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__
