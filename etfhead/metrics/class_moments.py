"""Per-class moments of features in one pass, without cancellation, in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ClassMoments", "add_batch", "empty_moments", "merge_moments", "recentred"]


class ClassMoments(NamedTuple):
    r"""What one pass keeps of the features: counts, class sums, and squares about the class means.

    .. math:: n_k, \quad \sum_{i \in k} h_i, \quad \sum_{i \in k} \lVert h_i - \mu_k \rVert^2, \quad
              S = \sum_i P^T (h_i - \mu_{y_i}) (h_i - \mu_{y_i})^T P

    Attributes:
        counts: (K,).
        sums: (K, d).
        squares: (K,).
        scatter: (m, m); m = d and P = I without a projection.
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    scatter: Tensor

    @property
    def means(self) -> Tensor:
        """Class means (K, d); zero for a class without a sample."""
        return self.sums / self.counts.clamp(min=1.0)[:, None]


def empty_moments(
    num_classes: int,
    in_features: int,
    projected: int | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float64,
) -> ClassMoments:
    """Moments of no sample.

    Args:
        num_classes: K.
        in_features: d.
        projected: m, the columns of the projection; None without one.
        device: Where they are added up.
        dtype: Float64, or float32 on a device that has no other.
    """
    width = in_features if projected is None else projected
    shapes = ((num_classes,), (num_classes, in_features), (num_classes,), (width, width))
    return ClassMoments(*(torch.zeros(shape, device=device, dtype=dtype) for shape in shapes))


def add_batch(
    moments: ClassMoments, features: Tensor, labels: Tensor, projection: Tensor | None = None
) -> None:
    r"""Add a batch to the moments, in place.

    A batch is centred on its own class means; what its means add is the shift between old and new ones,

    .. math:: S \leftarrow S + \sum_i (h_i - m_{y_i})(h_i - m_{y_i})^T
              + \sum_k \frac{n_k b_k}{n_k + b_k} (m_k - \mu_k)(m_k - \mu_k)^T,

    a sum of squares (Chan, Golub & LeVeque 1979): nothing is subtracted, so no digits are lost to a mean that
    is large beside the spread, and nothing can turn negative.

    Args:
        moments: Changed in place.
        features: (B, d), in the moments' type.
        labels: (B,) int64, from 0 to K - 1.
        projection: P, (d, m), orthonormal columns.
    """
    if not len(labels):
        return
    present, index, number = labels.unique(return_inverse=True, return_counts=True)
    batch_counts = number.to(features.dtype)
    batch_sums = features.new_zeros(len(present), features.shape[1]).index_add_(0, index, features)
    batch_means = batch_sums / batch_counts[:, None]
    deviations = features - batch_means[index]

    counts, sums = moments.counts[present], moments.sums[present]
    known = counts > 0
    gap = batch_means[known] - sums[known] / counts[known, None]
    gap *= (counts[known] * batch_counts[known] / (counts[known] + batch_counts[known])).sqrt()[:, None]

    squares = features.new_zeros(len(present)).index_add_(0, index, deviations.square().sum(1))
    squares[known] += gap.square().sum(1)
    moments.squares[present] += squares
    _add_products(moments.scatter, torch.cat([deviations, gap]), projection)
    moments.counts[present] = counts + batch_counts
    moments.sums[present] = sums + batch_sums


def recentred(moments: ClassMoments, means: Tensor, projection: Tensor | None = None) -> ClassMoments:
    """The same samples with squares about other centres: about common ones, moments of shares add up.

    Args:
        moments: Of one share of the samples.
        means: (K, d), close to the class means of that share.
        projection: As in :func:`add_batch`.
    """
    gap = moments.counts.sqrt()[:, None] * (moments.means - means)
    scatter = moments.scatter.clone()
    _add_products(scatter, gap[moments.counts > 0], projection)
    return moments._replace(squares=moments.squares + gap.square().sum(1), scatter=scatter)


def merge_moments(
    first: ClassMoments, second: ClassMoments, projection: Tensor | None = None
) -> ClassMoments:
    """Moments of the samples of both.

    >>> one, two = empty_moments(2, 1), empty_moments(2, 1)
    >>> add_batch(one, torch.tensor([[1.0], [3.0]], dtype=torch.float64), torch.tensor([0, 0]))
    >>> add_batch(two, torch.tensor([[5.0]], dtype=torch.float64), torch.tensor([0]))
    >>> merge_moments(one, two).scatter  # 4 + 0 + 4 about the mean of 3
    tensor([[8.]], dtype=torch.float64)
    """
    means = ClassMoments(first.counts + second.counts, first.sums + second.sums, *first[2:]).means
    parts = recentred(first, means, projection), recentred(second, means, projection)
    return ClassMoments(*(a + b for a, b in zip(*parts, strict=True)))


def _add_products(scatter: Tensor, rows: Tensor, projection: Tensor | None) -> None:
    if projection is not None:
        rows = rows @ projection
    scatter.addmm_(rows.T, rows)
