"""How far vectors are from a simplex equiangular tight frame, and from each other: NC2 and NC3."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SimplexDistance", "product_distance", "self_duality", "simplex_distance", "unit_rows"]

_ROWS = 1024  # rows of a K x K matrix held at once


class SimplexDistance(NamedTuple):
    r"""Three views of the distance of K vectors v_k from a simplex; all 0 there.

    Attributes:
        equinorm: std(|v_k|) / mean(|v_k|), the sample standard deviation.
        equiangular: Mean over pairs of \|cos(v_j, v_k) + 1/(K - 1)\|; the cosine with a zero vector is 0.
        etf: ||G / ||G||_F - (I - 11^T/K) / sqrt(K - 1)||_F with the Gram matrix G.
    """

    equinorm: Tensor
    equiangular: Tensor
    etf: Tensor


def simplex_distance(vectors: Tensor) -> SimplexDistance:
    r"""Distance of vectors from a simplex equiangular tight frame, invariant to rotation and scale.

    Papyan, Han & Donoho 2020 (arXiv 2008.08186) for norms and angles; Zhu et al. 2021 (arXiv 2105.02375) for
    the Gram matrix.

    Args:
        vectors: (K, d), class vectors as they are, or class means minus their mean.

    Raises:
        ValueError: If there are fewer than two vectors, or all are zero.

    >>> triangle = torch.eye(3, dtype=torch.float64) - 1 / 3
    >>> all(distance < 1e-12 for distance in simplex_distance(triangle))
    True
    """
    classes = _at_least_two("vectors", vectors)
    norms = vectors.norm(dim=1)
    if not bool((norms > 0).any()):
        raise ValueError("vectors: all are zero, so they have no direction to compare")
    unit = unit_rows(vectors)
    scale = _product_norm(vectors, vectors)
    mean = norms.mean()
    # Against the first norm: equal norms have a spread of exactly zero.
    spread = (norms - norms[0]).std()
    angle = vectors.new_zeros(())
    distance = vectors.new_zeros(())
    for start in range(0, classes, _ROWS):
        rows = slice(start, start + _ROWS)
        cosines = unit[rows] @ unit.T
        gram = cosines * (norms[rows, None] / scale) * norms
        distance += _squares_to_simplex(gram, start, classes)
        gaps = cosines.add_(1.0 / (classes - 1)).abs_()
        gaps.diagonal(start).zero_()
        angle += gaps.sum()
    return SimplexDistance(spread / mean, angle / (classes * (classes - 1)), distance.clamp(min=0.0).sqrt())


def self_duality(weight: Tensor, centred: Tensor) -> Tensor:
    r"""Squared distance of class vectors and centred class means, each of unit Frobenius norm.

    .. math:: \left\lVert \frac{W}{\lVert W \rVert_F} - \frac{M}{\lVert M \rVert_F} \right\rVert_F^2

    from 0 (parallel) over 2 (unrelated) to 4 (opposite); 1 if one of them is zero. Papyan, Han & Donoho 2020,
    NC3.

    Args:
        weight: W, (K, d).
        centred: M, class means minus their mean, (K, d).
    """
    return (weight / _nonzero(weight.norm()) - centred / _nonzero(centred.norm())).square().sum()


def product_distance(weight: Tensor, centred: Tensor) -> Tensor:
    r"""Distance of W M^T from a simplex' Gram matrix, both of unit Frobenius norm (Zhu et al. 2021).

    .. math:: \left\lVert \frac{W M^T}{\lVert W M^T \rVert_F} - \frac{I - 11^T/K}{\sqrt{K-1}} \right\rVert_F

    It is 1 if W M^T is zero.

    Args:
        weight: W, (K, d).
        centred: M, class means minus their mean, (K, d).

    Raises:
        ValueError: If there are fewer than two class vectors.
    """
    classes = _at_least_two("weight", weight)
    scale = _nonzero(_product_norm(weight, centred))
    squares = [
        _squares_to_simplex(weight[start : start + _ROWS] @ (centred.T / scale), start, classes)
        for start in range(0, classes, _ROWS)
    ]
    return torch.stack(squares).sum().sqrt()


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows (K, d) over their norms, at any scale; a zero row stays zero."""
    return vectors / _nonzero(vectors.norm(dim=1, keepdim=True))


def _at_least_two(argument: str, vectors: Tensor) -> int:
    if len(vectors) < 2:
        raise ValueError(f"{argument}: expected at least two rows to compare, got {len(vectors)}")
    return len(vectors)


def _nonzero(norm: Tensor) -> Tensor:
    """What to divide by: a zero matrix stays zero."""
    return torch.where(norm > 0, norm, 1.0)


def _product_norm(first: Tensor, second: Tensor) -> Tensor:
    """Frobenius norm of A B^T, through <A^T A, B^T B> where those matrices are the smaller ones."""
    if len(first) > first.shape[1]:
        return ((first.T @ first) * (second.T @ second)).sum().clamp(min=0.0).sqrt()
    return (first @ second.T).norm()


def _squares_to_simplex(block: Tensor, start: int, classes: int) -> Tensor:
    """Sum of squared differences of rows start.. of a K x K matrix from (I - 11^T/K) / sqrt(K - 1)."""
    unit = 1.0 / math.sqrt(classes - 1)
    gaps = block + unit / classes
    gaps.diagonal(start).sub_(unit)
    return gaps.square().sum()
