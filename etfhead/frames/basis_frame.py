"""Base of the frames whose class vectors are few additions away from an orthonormal basis."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from etfhead.frames.base import DENSE_BELOW, Frame, checked_seed
from etfhead.frames.basis import make_basis

__all__ = ["BasisFrame"]


class BasisFrame(Frame):
    r"""Class vectors :math:`M = A\,U^\top` of orthonormal directions U and a map A that costs O(K).

    A subclass calls :meth:`_set_basis` once and gives A (:meth:`_to_classes`) with its transpose
    (:meth:`_to_coordinates`). Where the basis is fast, only its factors are kept.
    """

    def _set_basis(self, basis: str, rows: int, seed: int) -> None:
        """Take ``rows`` directions of a basis; ``identity`` has no seed to use."""
        seed = checked_seed(seed)
        self.basis, self.seed = basis, 0 if basis == "identity" else seed
        self._basis = make_basis(basis, rows, self.in_features, seed)

    @abstractmethod
    def _to_classes(self, coordinates: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """A: coordinates (..., rows) in the basis to inner products (..., K)."""

    @abstractmethod
    def _to_coordinates(self, coefficients: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Transpose of :meth:`_to_classes`."""

    @property
    def structured(self) -> bool:
        """Whether the matrix is never built: a fast basis, and K d large enough to gain by it.

        ``identity`` multiplies nothing and is structured at any size.
        """
        small = self.num_classes * self.in_features <= DENSE_BELOW and self.basis != "identity"
        return self._basis.structured and self._maps_coordinates and not small

    @property
    def _maps_coordinates(self) -> bool:
        """Whether A has its O(K) form. (A subclass's ``super().structured`` would mislead torch.compile.)"""
        return True

    @property
    def active_features(self) -> int:
        """The number of directions with the ``identity`` basis, which reads no other axis; d otherwise."""
        return self._basis.rows if self.basis == "identity" else self.in_features

    @property
    def block_size(self) -> int:
        """K where structured: the transform gives all coordinates at once; 1 for a dense matrix."""
        return self.num_classes if self.structured else 1

    def _directions(self) -> Tensor:
        """The basis as rows, float64; refused where it would be huge."""
        if self.structured:
            self._refuse_large_matrix()
        return self._basis.matrix()

    def factors(self) -> dict[str, Tensor]:
        """The basis' factors, or the dense matrix as ``weight``."""
        return self._basis.factors() if self.structured else super().factors()

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Inner products of features (..., d) with every class vector, (..., K)."""
        if not self.structured:
            return super().apply(features, factors)
        return self._to_classes(self._basis.apply(features, factors), factors)

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
        return self._basis.adjoint(self._to_coordinates(coefficients, factors), factors)

    def spec(self) -> dict[str, Any]:
        """JSON-able description; ``make_frame(**spec)`` builds the same frame again."""
        return {**super().spec(), **self._options(), "basis": self.basis, "seed": self.seed}

    def _options(self) -> dict[str, Any]:
        """What else the frame is built with."""
        return {}
