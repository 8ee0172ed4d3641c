"""The orthoplex: orthonormal directions and their negatives, up to 2d class vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import DENSE_BELOW, Coherence, Frame, checked_seed, welch_bound
from etfhead.frames.basis import make_basis

__all__ = ["OrthoplexFrame"]


class OrthoplexFrame(Frame):
    r"""Orthoplex for K <= 2d: n = ceil(K/2) orthonormal directions e_i, then their negatives.

    .. math:: m_k = e_k \;(k < n), \qquad m_k = -e_{k-n} \;(k \ge n)

    No two cosines are positive; for K >= d + 2 no K vectors can do better than a largest cosine of 0 (Rankin,
    Proc. Glasgow Math. Assoc. 2, 1955). There it is also where class vectors collapse to (Alcala et al.,
    "Neural collapse in the orthoplex regime", 2026, arXiv 2603.20587). K <= d + 1 leaves room for a simplex.

    Args:
        num_classes: K, from 2 to 2 ``in_features``.
        in_features: d.
        basis: Which orthonormal e_i: ``identity``, ``hadamard`` or ``haar``, as in
            :class:`~etfhead.frames.SimplexFrame`.
        seed: Seed of the basis; ``identity`` has none to use.

    Raises:
        ValueError: If K > 2d, if the basis is unknown, or if a size is not a positive integer.

    >>> frame = OrthoplexFrame(5, 3, basis="identity")
    >>> frame.matrix().int().tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    """

    name = "orthoplex"

    def __init__(self, num_classes: int, in_features: int, *, basis: str = "hadamard", seed: int = 0) -> None:
        super().__init__(num_classes, in_features)
        self._rows = -(-self.num_classes // 2)
        if self._rows > self.in_features:
            raise ValueError(
                f"num_classes={num_classes} with in_features={in_features}: an orthoplex needs "
                f"num_classes <= 2 in_features = {2 * self.in_features}. For more classes take "
                'frame="union" (or "auto"), or "class_means" from data'
            )
        seed = checked_seed(seed)
        self.basis, self.seed = basis, 0 if basis == "identity" else seed
        self._basis = make_basis(basis, self._rows, self.in_features, seed)

    @property
    def structured(self) -> bool:
        """Whether the matrix is never built: a fast basis, and K d large enough to gain by it.

        ``identity`` multiplies nothing and is structured at any size.
        """
        small = self.num_classes * self.in_features <= DENSE_BELOW and self.basis != "identity"
        return self._basis.structured and not small

    @property
    def active_features(self) -> int:
        """ceil(K/2) with the ``identity`` basis, which reads no other axis; d otherwise."""
        return self._rows if self.basis == "identity" else self.in_features

    @property
    def max_norm(self) -> float:
        """1: the vectors have unit norm."""
        return 1.0

    @property
    def block_size(self) -> int:
        """K where structured: the transform gives all coordinates at once; 1 for a dense matrix."""
        return self.num_classes if self.structured else 1

    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, unit norm."""
        if self.structured:
            self._refuse_large_matrix()
        directions = self._basis.matrix()
        return torch.cat([directions, -directions])[: self.num_classes]

    def factors(self) -> dict[str, Tensor]:
        """The basis' factors, or the dense matrix as ``weight``."""
        return self._basis.factors() if self.structured else super().factors()

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Inner products of features (..., d) with every class vector, (..., K)."""
        if not self.structured:
            return super().apply(features, factors)
        coordinates = self._basis.apply(features, factors)
        return torch.cat([coordinates, -coordinates], dim=-1)[..., : self.num_classes]

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
        missing = 2 * self._rows - self.num_classes
        positive, negative = torch.nn.functional.pad(coefficients, (0, missing)).chunk(2, dim=-1)
        return self._basis.adjoint(positive - negative, factors)

    def coherence(self) -> Coherence:
        """Exactly 0, and 1 in absolute value; -1 for K = 2, a direction and its negative."""
        return Coherence(
            -1.0 if self.num_classes == 2 else 0.0, 1.0, welch_bound(self.num_classes, self.in_features)
        )

    def spec(self) -> dict[str, Any]:
        """JSON-able description; ``make_frame(**spec)`` builds the same frame again."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "in_features": self.in_features,
            "basis": self.basis,
            "seed": self.seed,
        }
