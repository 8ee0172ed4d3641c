"""The simplex equiangular tight frame: K class vectors as far apart as K vectors can be."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import DENSE_BELOW, Coherence, Frame, checked_seed, welch_bound
from etfhead.frames.basis import make_basis
from etfhead.frames.orthogonal_factors import helmert_matrix

__all__ = ["SimplexFrame"]


class SimplexFrame(Frame):
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
        seed = checked_seed(seed)
        self.basis, self.seed = basis, 0 if basis == "identity" else seed
        self._basis = make_basis(basis, min(num_classes, in_features), in_features, seed)
        self._gain = math.sqrt(num_classes / (num_classes - 1))

    @property
    def structured(self) -> bool:
        """Whether the matrix is never built: a fast basis, K <= d, and K d large enough to gain by it.

        ``identity`` multiplies nothing and is structured at any size.
        """
        small = self.num_classes * self.in_features <= DENSE_BELOW and self.basis != "identity"
        return self.num_classes <= self.in_features and self._basis.structured and not small

    @property
    def active_features(self) -> int:
        """K with the ``identity`` basis, which reads no other axis; d otherwise."""
        return min(self.num_classes, self.in_features) if self.basis == "identity" else self.in_features

    @property
    def max_norm(self) -> float:
        """1: the vectors have unit norm."""
        return 1.0

    @property
    def block_size(self) -> int:
        """K where structured, for the mean needs all coordinates; 1 for a dense matrix."""
        return self.num_classes if self.structured else 1

    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, unit norm."""
        if self.structured:
            self._refuse_large_matrix()
        directions = self._basis.matrix()
        if self.num_classes > self.in_features:
            return self._gain * helmert_matrix(self.num_classes) @ directions
        # A running sum has one order on every machine; a mean is split among threads and vector lanes.
        return self._gain * (directions - directions.cumsum(0)[-1] / self.num_classes)

    def factors(self) -> dict[str, Tensor]:
        """The basis' factors, or the dense matrix as ``weight``."""
        return self._basis.factors() if self.structured else super().factors()

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Inner products of features (..., d) with every class vector, (..., K)."""
        if not self.structured:
            return super().apply(features, factors)
        coordinates = self._basis.apply(features, factors)
        return torch.add(-self._gain * coordinates.mean(-1, keepdim=True), coordinates, alpha=self._gain)

    def shifted_logits(self, features: Tensor, factors: dict[str, Tensor]) -> tuple[Tensor, float]:
        """:meth:`apply` without the centring of a structured frame: its coordinates and their gain."""
        if not self.structured:
            return super().shifted_logits(features, factors)
        return self._basis.apply(features, factors), self._gain

    def block_logits(self, x: Tensor, factors: dict[str, Tensor], start: int, stop: int) -> Tensor:
        """Inner products with the vectors start..stop - 1; all K at once where structured."""
        if not self.structured:
            return super().block_logits(x, factors, start, stop)
        self._check_block(start, stop)
        return self.apply(x, factors)

    def block_adjoint(
        self, coefficients: Tensor, factors: dict[str, Tensor], start: int, stop: int
    ) -> Tensor:
        """Transpose of :meth:`block_logits`."""
        if not self.structured:
            return super().block_adjoint(coefficients, factors, start, stop)
        self._check_block(start, stop)
        centred = coefficients - coefficients.mean(-1, keepdim=True)
        return self._basis.adjoint(self._gain * centred, factors)

    def coherence(self) -> Coherence:
        """Exactly -1/(K - 1), the least that K vectors can reach."""
        cosine = 1.0 / (self.num_classes - 1)
        return Coherence(-cosine, cosine, welch_bound(self.num_classes, self.in_features))

    def spec(self) -> dict[str, Any]:
        """JSON-able description; ``make_frame(**spec)`` builds the same frame again."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "in_features": self.in_features,
            "basis": self.basis,
            "seed": self.seed,
        }
