"""Closed-form optimum of the squared error behind several linear layers, for any class counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from etfhead.frames.imbalanced import check_decays, checked_counts, squared_error_geometry
from etfhead.frames.last_layer import LastLayer

__all__ = ["deep_linear_geometry", "deep_linear_loss", "deep_strength"]

_HALVINGS = 200  # of an interval, down to neighbouring floats


def deep_strength(eigenvalues: Tensor, total: float, decays: Sequence[float], feature_decay: float) -> Tensor:
    r"""Squared singular values of W_M ... W_1 at the optimum, one for each eigenvalue mu of Y Y^T.

    .. math:: \sigma^2 = N \lambda_H x^M, \qquad
              x = \arg\min_{x \ge 0} \frac{1}{1 + x^M} + \frac{b}{\mu}\, x, \qquad
              b = M N \Bigl(N \lambda_H \prod_m \lambda_{W_m}\Bigr)^{1/M}

    x is the largest root of :math:`b / \mu = M x^{M-1} / (1 + x^M)^2`, or 0 where that is no lower: from
    :math:`b / \mu = (M-1)^{(M-1)/M} / M` on. For M = 1 x falls to 0 continuously, for M > 1 it jumps.

    Args:
        eigenvalues: mu, any shape, float64; n_k for one-hot targets without bias.
        total: N.
        decays: lambda_W of each of the M layers.
        feature_decay: lambda_H.

    Returns:
        Tensor: sigma^2, of the eigenvalues' shape.

    >>> deep_strength(torch.tensor([90.0, 0.5], dtype=torch.float64), 100.0, [1e-2], 1e-2).tolist()
    [8.48..., 0.0]
    """
    ridge, depth = total * feature_decay, len(decays)
    return ridge * _root(_slope(eigenvalues, total, decays, feature_decay), depth) ** depth


def _slope(eigenvalues: Tensor, total: float, decays: Sequence[float], feature_decay: float) -> Tensor:
    depth = len(decays)
    product = math.exp(sum(map(math.log, [total * feature_decay, *decays])) / depth)
    return depth * total * product / eigenvalues.clamp(min=torch.finfo(torch.float64).tiny)


def _root(slope: Tensor, depth: int) -> Tensor:
    """The x >= 0 at which 1 / (1 + x^M) + slope x is lowest."""
    if depth == 1:
        return (slope.rsqrt() - 1.0).clamp(min=0.0)

    def falls(x: Tensor) -> Tensor:
        return depth * x ** (depth - 1) / (1.0 + x**depth).square()

    # The fall grows up to here and then shrinks below M x^-(M + 1): the largest root lies between.
    low = torch.full_like(slope, ((depth - 1) / (depth + 1)) ** (1 / depth))
    high = (depth / slope) ** (1 / (depth + 1))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        steep = falls(middle) > slope
        low, high = torch.where(steep, middle, low), torch.where(steep, high, middle)
    x = (low + high) / 2
    return x.where(1.0 / (1.0 + x**depth) + slope * x < 1.0, 0.0)


def deep_linear_geometry(
    class_counts: Sequence[int] | Tensor,
    *,
    weight_decays: Sequence[float],
    feature_decay: float,
    bias: bool = False,
) -> LastLayer:
    r"""Optimum of the squared error behind M linear layers: the general orthogonal frame at any depth.

    .. math:: \min \frac{1}{2N} \lVert W_M \cdots W_1 H - Y \rVert_F^2
              + \sum_m \frac{\lambda_{W_m}}{2} \lVert W_m \rVert_F^2 + \frac{\lambda_H}{2} \lVert H \rVert_F^2

    over M layers of width K or more and the features H (d, N) of all samples, Y one-hot. With W the product
    of the layers and :math:`\sigma_k^2` of :func:`deep_strength` at the class counts,

    .. math:: W W^T = \mathrm{diag}(\sigma_k^2), \quad
              \bar H^T \bar H = \mathrm{diag}\Bigl(\frac{\sigma_k^2}{(\sigma_k^2 + N\lambda_H)^2}\Bigr), \quad
              W \bar H = \mathrm{diag}\Bigl(\frac{\sigma_k^2}{\sigma_k^2 + N\lambda_H}\Bigr)

    (Dang et al. 2023, arXiv 2301.00437). A class too rare collapses to zero: suddenly for M > 1. A bias b 1^T
    without decay becomes the class shares p; the same functions then act on the eigenvalues of
    :math:`N (\mathrm{diag}\,p - p p^T)`: for equal counts a simplex ETF. M = 1 is
    :func:`~etfhead.frames.imbalanced.orthogonal_geometry`.

    Args:
        class_counts: n_k, (K,) positive integers.
        weight_decays: lambda_W of each layer; M of them.
        feature_decay: lambda_H, for squares of features summed over all N samples.
        bias: Whether the last layer has a bias, without decay.

    Returns:
        LastLayer: Of the product of the layers, at the scale of the optimum, not centred.

    Raises:
        ValueError: If the counts are not at least two positive integers, there is no layer, or a decay is not
            positive.

    >>> geometry = deep_linear_geometry([90, 9, 1], weight_decays=[1e-2, 1e-2], feature_decay=1e-3)
    >>> (geometry.product.diagonal() > 0).tolist()
    [True, True, False]
    """
    counts = _checked(class_counts, weight_decays, feature_decay)
    total = counts.sum().item()

    def strength(x: Tensor) -> Tensor:
        return deep_strength(x, total, weight_decays, feature_decay)

    return squared_error_geometry(counts, strength, feature_decay, bias=bias)


def deep_linear_loss(
    class_counts: Sequence[int] | Tensor,
    *,
    weight_decays: Sequence[float],
    feature_decay: float,
    bias: bool = False,
) -> float:
    r"""The loss of :func:`deep_linear_geometry`, decays included.

    .. math:: \sum_k \frac{\mu_k}{2N} \Bigl( \frac{1}{1 + x_k^M} + \frac{b}{\mu_k}\, x_k \Bigr)

    >>> round(deep_linear_loss([5, 5], weight_decays=[1.0], feature_decay=1.0), 6)  # W = H = 0
    0.5
    """
    counts = _checked(class_counts, weight_decays, feature_decay)
    total, eigenvalues = counts.sum().item(), counts
    if bias:
        eigenvalues = torch.linalg.eigvalsh(counts.diag() - counts.outer(counts) / total)[1:]
    slope = _slope(eigenvalues, total, weight_decays, feature_decay)
    depth = len(weight_decays)
    x = _root(slope, depth)
    return (eigenvalues * (1.0 / (1.0 + x**depth) + slope * x)).sum().item() / (2.0 * total)


def _checked(
    class_counts: Sequence[int] | Tensor, weight_decays: Sequence[float], feature_decay: float
) -> Tensor:
    if isinstance(weight_decays, int | float | str) or not len(weight_decays):
        raise ValueError(f"weight_decays={weight_decays!r}: expected one positive number for each layer")
    for decay in weight_decays:
        check_decays(decay, feature_decay)
    return checked_counts(class_counts)
