"""Geometries to compare a last layer with: checked, and read in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.frames.base import Frame
from etfhead.frames.last_layer import LastLayer, sums_to_zero
from etfhead.metrics._blocks import Blocks, given, inner_products

__all__ = ["checked_target", "class_count", "target_blocks"]

_SYMMETRIC = 1e-5  # of the largest entry: what float32 leaves of a Gram matrix
_ROWS = 1024


def class_count(target: Frame | LastLayer) -> int:
    """K."""
    return target.num_classes if isinstance(target, Frame) else len(target.weight_gram)


def target_blocks(
    target: Frame | LastLayer, like: Tensor, seen: Tensor | None
) -> tuple[dict[str, Blocks], bool]:
    """The target's three matrices for the classes seen, and whether its means are centred.

    Args:
        target: What :func:`checked_target` gave.
        like: Says in which type and where the blocks are wanted.
        seen: (C,) indices of the classes; all of them if None.
    """
    if isinstance(target, LastLayer):
        centred = target.centred
        return {
            "means": given(target.mean_gram, like, seen, centre_rows=centred, centre_columns=centred),
            "weights": given(target.weight_gram, like, seen),
            "product": given(target.product, like, seen, centre_columns=centred),
        }, centred
    vectors = target.matrix().to(like.dtype).to(like.device)  # in two steps: mps cannot hold float64
    centred = sums_to_zero(vectors)
    vectors = vectors if seen is None else vectors[seen]
    means = vectors - vectors.mean(0) if centred else vectors
    return {
        "means": inner_products(means, means),
        "weights": inner_products(vectors, vectors),
        "product": inner_products(vectors, means),
    }, centred


def checked_target(target: Frame | LastLayer | Tensor) -> Frame | LastLayer:
    """The target as a frame or as three matrices, which are not copied.

    Raises:
        ValueError: If it is neither of the three, is not square, finite and different from zero, or, as one
            matrix, is no Gram matrix.
    """
    if isinstance(target, Frame):
        return target
    if isinstance(target, LastLayer):
        for name, matrix in zip(target._fields, target[:3], strict=False):
            _check_square(f"target.{name}", matrix, len(target.weight_gram))
        return target
    if not isinstance(target, Tensor):
        raise ValueError(
            f"target: expected a Frame, a LastLayer or a (K, K) Gram matrix, got {type(target).__name__}; "
            "make_frame() and etfhead.frames.last_layer make them"
        )
    gram = target.detach()
    _check_square("target", gram, len(gram) if gram.ndim else 0)
    rounding = _SYMMETRIC * _largest(gram)
    starts = range(0, len(gram), _ROWS)
    gaps = torch.stack([_largest(gram[i : i + _ROWS] - gram.T[i : i + _ROWS]) for i in starts])
    if bool(gaps.max() > rounding) or bool(gram.diagonal().min() < -rounding):
        raise ValueError(
            "target: expected a Gram matrix, symmetric with a non-negative diagonal; "
            "give class vectors as vectors @ vectors.T"
        )
    return LastLayer(gram, gram, gram, centred=sums_to_zero(gram))


def _check_square(argument: str, matrix: Tensor, classes: int) -> None:
    if not isinstance(matrix, Tensor) or tuple(matrix.shape) != (classes, classes) or classes < 2:
        got = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(f"{argument}: expected shape (K, K) with K >= 2, got {got}")
    if not matrix.is_floating_point():
        raise ValueError(f"{argument}: expected floats, got {matrix.dtype}")
    largest = _largest(matrix)
    if not bool(largest.isfinite()):
        raise ValueError(f"{argument}: holds NaN or infinity")
    if not bool(largest > 0):
        raise ValueError(
            f"{argument}: all zero: every class collapses and leaves no geometry to compare; "
            "take smaller decays"
        )


def _largest(matrix: Tensor) -> Tensor:
    low, high = matrix.aminmax()  # abs() would copy the matrix
    return torch.maximum(-low, high)
