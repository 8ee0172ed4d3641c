"""Where class vectors and class means end together: Gram matrices of frames and of closed-form optima."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from etfhead.frames.base import Frame, checked_size

__all__ = ["LastLayer", "frame_geometry", "simplex_geometry", "sums_to_zero"]

_ROUNDING = 1e-6  # vectors that went through float32 sum to about 1e-7 of their norm


class LastLayer(NamedTuple):
    """Geometry of a last layer up to rotation: inner products of class vectors W and class means H, as rows.

    Attributes:
        weight_gram: W W^T, (K, K) float64.
        mean_gram: H H^T, (K, K) float64.
        product: W H^T, (K, K) float64; row j, column k is what class vector j answers to the mean of class k.
        centred: Whether the class means are meant after subtracting their unweighted mean. A comparison then
            centres both sides, so ``geometry._replace(centred=True)`` compares any geometry up to a shift
            that all class means share.
    """

    weight_gram: Tensor
    mean_gram: Tensor
    product: Tensor
    centred: bool


def sums_to_zero(rows: Tensor) -> bool:
    """Whether the sum of the rows is zero, up to 1e-6 of the Frobenius norm.

    Args:
        rows: (K, d) vectors, or their (K, K) Gram matrix: its rows sum to zero where the vectors do.

    >>> sums_to_zero(torch.eye(3) - 1 / 3), sums_to_zero(torch.eye(3))
    (True, False)
    """
    return bool(rows.sum(0).norm() <= _ROUNDING * rows.norm())


def simplex_geometry(num_classes: int) -> LastLayer:
    r"""Neural collapse of balanced classes: class vectors and centred class means are one simplex ETF.

    .. math:: W W^T \propto H H^T \propto W H^T \propto \tfrac{K}{K-1} (I - \tfrac1K 1 1^T)

    The optimum of cross-entropy, and of the squared error with a bias, on balanced data with K <= d + 1
    (Papyan, Han & Donoho 2020, arXiv 2008.08186).

    Args:
        num_classes: K, at least 2.

    Returns:
        LastLayer: Of unit vectors.

    >>> simplex_geometry(3).product[0].tolist()
    [1.0, -0.5, -0.5]
    """
    classes = checked_size("num_classes", num_classes, 2)
    gram = torch.full((classes, classes), -1.0 / (classes - 1), dtype=torch.float64, device="cpu")
    gram.fill_diagonal_(1.0)
    return LastLayer(gram, gram, gram, centred=True)


def frame_geometry(frame: Frame) -> LastLayer:
    """A frame as target: the class means point where the class vectors do.

    Args:
        frame: Any frame; its matrix and its Gram matrix are built.

    Returns:
        LastLayer: All three matrices are M M^T, one tensor; centred where the class vectors sum to zero.

    >>> from etfhead.frames import make_frame
    >>> geometry = frame_geometry(make_frame("orthoplex", num_classes=4, in_features=2))
    >>> geometry.centred, round(geometry.weight_gram.diagonal().sum().item(), 12)
    (True, 4.0)
    """
    vectors = frame.matrix()
    gram = vectors @ vectors.T
    return LastLayer(gram, gram, gram, centred=sums_to_zero(vectors))
