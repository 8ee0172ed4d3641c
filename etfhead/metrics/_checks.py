"""What every metric over features asks of a batch before it adds anything."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "checked_basis",
    "checked_batch",
    "checked_bias",
    "checked_predictions",
    "checked_vectors",
    "wide_dtype",
]


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
    fits = isinstance(features, Tensor) and features.ndim == 2 and features.is_floating_point()
    if not fits or not features.shape[1]:
        raise ValueError(
            f"features: expected floats of shape (B, d), got {_describe(features)}; pool or flatten first"
        )
    if in_features is not None and features.shape[1] != in_features:
        raise ValueError(
            f"features: expected {in_features} features, as in the batches before, got {features.shape[1]}; "
            "reset() before measuring another layer"
        )
    if not _is_integral(labels) or labels.shape != features.shape[:1]:
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


def checked_bias(bias: Tensor, num_classes: int) -> Tensor:
    """A bias (K,), detached.

    Raises:
        ValueError: If the shape does not fit or a number is not finite.
    """
    if not isinstance(bias, Tensor) or bias.shape != (num_classes,):
        raise ValueError(f"bias: expected shape ({num_classes},), got {_describe(bias)}")
    if not bias.isfinite().all():
        raise ValueError("bias: holds NaN or infinity")
    return bias.detach()


def checked_predictions(predictions: Tensor, samples: int) -> Tensor:
    """Predicted classes (B,), detached.

    Raises:
        ValueError: If they are not one integer a sample.
    """
    if not _is_integral(predictions) or predictions.shape != (samples,):
        raise ValueError(
            f"predictions: expected {samples} integer classes, shape ({samples},), "
            f"got {_describe(predictions)}; of logits take the argmax"
        )
    return predictions.detach()


def _is_integral(value: object) -> bool:
    if not isinstance(value, Tensor) or value.dtype == torch.bool:
        return False
    return not (value.is_floating_point() or value.is_complex())


def checked_basis(projection: Tensor) -> Tensor:
    """An orthonormal basis of the span of given columns, in the widest type of their device.

    Raises:
        ValueError: If it is not (d, m) with m <= d, not finite, or a column depends on the others.
    """
    if projection.ndim != 2 or not 1 <= projection.shape[1] <= projection.shape[0]:
        raise ValueError(f"projection: expected shape (d, m) with m <= d, got {tuple(projection.shape)}")
    wide = projection.detach().to(wide_dtype(projection.device))
    basis, triangle = torch.linalg.qr(wide)
    sizes = triangle.diagonal().abs()
    if not bool(sizes.isfinite().all() & (sizes > 1e-10 * sizes.max()).all()):
        raise ValueError(
            "projection: its columns are not finite or depend on each other; leave the dependent ones out"
        )
    return basis


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__
