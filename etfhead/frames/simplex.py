"""The simplex equiangular tight frame: K class vectors as far apart as K vectors can be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etfhead.frames.basis_frame import BasisFrame
from etfhead.frames.coherence import Coherence, welch_bound
from etfhead.frames.orthogonal_factors import helmert_matrix

__all__ = ["SimplexFrame"]


class SimplexFrame(BasisFrame):
    r"""Simplex ETF for K <= d + 1: unit vectors whose pairwise cosine is -1/(K - 1), summing to zero.

    .. math:: M = \sqrt{\tfrac{K}{K-1}}\,(I_K - \tfrac1K 1 1^\top)\,U^\top, \qquad U^\top U = I_K

    The limit of class means and class vectors of a well-trained balanced classifier (Papyan, Han & Donoho,
    "Prevalence of neural collapse", PNAS 2020, arXiv 2008.08186). For K = d + 1 there is no room for K
    orthonormal columns: there M = sqrt(K/(K-1)) V T with V the Helmert basis of sum-zero vectors.

    Args:
        num_classes: K, from 2 to ``in_features`` + 1.
        in_features: d.
        basis: Which orthonormal U: ``identity`` (K of the axes, no multiplication), ``hadamard``
            (signed Kronecker factors, O(d sqrt d), dense where that is faster) or ``haar`` (uniformly
            random, dense).
        seed: Seed of the basis; ``identity`` has none to use.

    Raises:
        ValueError: If K > d + 1, if the basis is unknown, or if a size is not a positive integer.

    >>> frame = SimplexFrame(4, 8, basis="hadamard")
    >>> gram = frame.matrix() @ frame.matrix().T
    >>> [round(x, 6) + 0.0 for x in gram[0].tolist()]
    [1.0, -0.333333, -0.333333, -0.333333]
    """

    name = "simplex"

    def __init__(self, num_classes: int, in_features: int, *, basis: str = "hadamard", seed: int = 0) -> None:
        super().__init__(num_classes, in_features)
        num_classes, in_features = self.num_classes, self.in_features
        if num_classes > in_features + 1:
            raise ValueError(
                f"num_classes={num_classes} with in_features={in_features}: a simplex ETF needs "
                f"num_classes <= in_features + 1 = {in_features + 1}. For more classes take "
                'frame="auto" ("orthoplex" up to 2 in_features, "union" beyond), "class_means" from data, or '
                "put a projection neck in front: "
                f"nn.Sequential(nn.Linear({in_features}, {num_classes - 1}), "
                f"ETFHead({num_classes - 1}, {num_classes}))"
            )
        self._set_basis(basis, min(num_classes, in_features), seed)
        self._gain = math.sqrt(num_classes / (num_classes - 1))

    @property
    def _maps_coordinates(self) -> bool:
        return self.num_classes <= self.in_features

    @property
    def max_norm(self) -> float:
        """1: the vectors have unit norm."""
        return 1.0

    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, unit norm."""
        directions = self._directions()
        if self.num_classes > self.in_features:
            return self._gain * helmert_matrix(self.num_classes) @ directions
        # A running sum has one order on every machine; a mean is split among threads and vector lanes.
        return self._gain * (directions - directions.cumsum(0)[-1] / self.num_classes)

    def _to_classes(self, coordinates: Tensor, factors: dict[str, Tensor]) -> Tensor:
        return torch.add(-self._gain * coordinates.mean(-1, keepdim=True), coordinates, alpha=self._gain)

    def _to_coordinates(self, coefficients: Tensor, factors: dict[str, Tensor]) -> Tensor:
        return self._gain * (coefficients - coefficients.mean(-1, keepdim=True))

    def shifted_logits(self, features: Tensor, factors: dict[str, Tensor]) -> tuple[Tensor, float]:
        """:meth:`apply` without the centring of a structured frame: its coordinates and their gain."""
        if not self.structured:
            return super().shifted_logits(features, factors)
        return self._basis.apply(features, factors), self._gain

    def coherence(self) -> Coherence:
        """Exactly -1/(K - 1), the least that K vectors can reach."""
        cosine = 1.0 / (self.num_classes - 1)
        return Coherence(-cosine, cosine, welch_bound(self.num_classes, self.in_features))
