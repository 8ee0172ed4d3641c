"""How small the spread within classes is beside the distance between them: NC1 and CDNV."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Between", "between_classes", "class_distance_variance", "within_over_between"]

_ROWS = 1024  # class means compared with all others at once
_CLOSE = 1e-4  # below this share of their norms, a distance is taken from the difference itself


class Between(NamedTuple):
    """Centred class means M (C, d) as M = U diag(values) directions^T, null directions left out.

    Attributes:
        values: Singular values, (r,), r <= C - 1.
        directions: (d, r), orthonormal: the span of the centred class means.
    """

    values: Tensor
    directions: Tensor


def between_classes(centred: Tensor) -> Between:
    """Singular values and directions of centred class means, never squared.

    A Gram matrix would halve the digits: two nearly merged classes would be lost in rounding. The rank is at
    most C - 1, whatever the last singular value's rounding says; coinciding means lower it further.

    Args:
        centred: (C, d), rows that sum to zero.
    """
    rows, width = centred.shape
    tall = rows > width
    reduced = torch.linalg.qr(centred, mode="r").R if tall else centred
    _, values, adjoint = torch.linalg.svd(reduced, full_matrices=False)
    noise = torch.finfo(centred.dtype).eps * max(rows, width) * values[0]
    rank = min(int((values > noise).sum()), rows - 1)
    return Between(values[:rank], adjoint[:rank].T)


def within_over_between(scatter: Tensor, samples: Tensor | float, centred: Tensor) -> Tensor:
    r"""Trace of the within-class covariance times the pseudo-inverse of the between-class one.

    .. math:: \mathrm{tr}(\Sigma_W \Sigma_B^+), \qquad \Sigma_W = \tfrac1N \sum_i (h_i - \mu_{y_i})(\cdot)^T,
              \quad \Sigma_B = \tfrac1C \sum_c (\mu_c - \mu_G)(\cdot)^T

    with mu_G the mean of the class means (Papyan, Han & Donoho 2020, arXiv 2008.08186).

    Args:
        scatter: N Sigma_W, (d, d).
        samples: N.
        centred: Class means minus their mean, (C, d).

    Returns:
        Tensor: A number >= 0; infinite if all class means coincide.

    >>> means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> within_over_between(10 * 0.25 * torch.eye(2), 10, means)  # only the axis between them counts
    tensor(0.2500)
    """
    values, directions = between_classes(centred)
    if not len(values):
        return scatter.new_tensor(torch.inf)
    # Diagonal of V^T Sigma_W V; rounding may take a zero below zero.
    along = (directions * (scatter @ directions)).sum(0).clamp(min=0.0) / samples
    return (along / values.square()).sum() * len(centred)


def class_distance_variance(centred: Tensor, variances: Tensor) -> Tensor:
    r"""Class-distance normalised variance, averaged over pairs of classes (Galanti et al., arXiv 2112.15121).

    .. math:: \frac{1}{C (C - 1)} \sum_{c \ne c'} \frac{v_c + v_{c'}}{2 \lVert \mu_c - \mu_{c'} \rVert^2}

    Args:
        centred: Class means, (C, d), minus any common vector.
        variances: v_c, mean squared distance of a class' samples to its mean, (C,).

    Returns:
        Tensor: A number >= 0; infinite if two class means coincide.

    Raises:
        ValueError: If there are fewer than two classes.
    """
    classes = len(centred)
    if classes < 2:
        raise ValueError(f"centred: expected at least two class means to compare, got {classes}")
    squares = centred.square().sum(1)
    total = centred.new_zeros(())
    for start in range(0, classes, _ROWS):
        rows = slice(start, start + _ROWS)
        both = squares[rows, None] + squares
        distances = (both - 2.0 * centred[rows] @ centred.T).clamp_(min=0.0)
        near = distances < _CLOSE * both
        near.diagonal(start).fill_(False)
        first, second = near.nonzero(as_tuple=True)
        for part in range(0, len(first), _ROWS):
            pair = first[part : part + _ROWS], second[part : part + _ROWS]
            gaps = centred[rows][pair[0]] - centred[pair[1]]
            distances[pair] = gaps.square().sum(1)
        distances.diagonal(start).fill_(torch.inf)
        ratio = (variances[rows, None] + variances) / (2.0 * distances)
        # Two means at one point are not told apart, whatever the spread: 0 / 0 is that limit too.
        total += ratio.nan_to_num_(nan=torch.inf, posinf=torch.inf).sum()
    return total / (classes * (classes - 1))
