"""Orthonormal rows behind a frame: K directions of R^d, with a fast way to project on them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from etfhead.frames.orthogonal_factors import orthogonal_factor

__all__ = ["BASES", "Basis", "HaarBasis", "HadamardBasis", "IdentityBasis", "make_basis"]


class Basis(ABC):
    """``rows`` orthonormal directions of R^d: the first rows of an orthogonal transform T.

    Args:
        rows: How many directions, at most ``in_features``.
        in_features: d.
        seed: Seed of the transform, where it is random.
    """

    def __init__(self, rows: int, in_features: int, seed: int = 0) -> None:
        if not 1 <= rows <= in_features:
            raise ValueError(f"rows={rows}: expected 1 <= rows <= in_features={in_features}")
        self.rows, self.in_features, self.seed = rows, in_features, seed

    @property
    def structured(self) -> bool:
        """Whether :meth:`apply` is cheaper than one product with the dense matrix."""
        return True

    @abstractmethod
    def matrix(self) -> Tensor:
        """Directions as rows: (rows, d), float64."""

    @abstractmethod
    def factors(self) -> dict[str, Tensor]:
        """Float64 tensors that :meth:`apply` needs."""

    @abstractmethod
    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Coordinates (..., rows) of features (..., d)."""

    @abstractmethod
    def adjoint(self, coefficients: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Transpose of :meth:`apply`: the sum of directions (..., d) with coefficients (..., rows)."""


class IdentityBasis(Basis):
    """The first ``rows`` axes: no multiplication, but the trunk's other features get no gradient."""

    def matrix(self) -> Tensor:
        """Directions as rows: (rows, d), float64."""
        return torch.eye(self.rows, self.in_features, dtype=torch.float64, device="cpu")

    def factors(self) -> dict[str, Tensor]:
        """Nothing is needed."""
        return {}

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Coordinates (..., rows) of features (..., d)."""
        return features[..., : self.rows]

    def adjoint(self, coefficients: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Coefficients (..., rows) padded with zeros to (..., d)."""
        return torch.nn.functional.pad(coefficients, (0, self.in_features - self.rows))


class HadamardBasis(Basis):
    r"""Rows of (A kron B) D: two small orthogonal factors with random signs, D a random sign a feature.

    With d = a b and features reshaped to (a, b), the transform is A X B^T: O(d (a + b)) operations and
    a^2 + b^2 stored numbers, about sqrt(d) times fewer than a dense one. A and B are Hadamard matrices where
    one is known and orthonormal DCTs elsewhere; only the rows in use are kept. The most balanced a b is
    taken; a prime d leaves no factors and becomes one dense DCT with random signs.

    Signs come from integers, so with Hadamard factors the same spec gives the same bits on any machine.
    """

    def __init__(self, rows: int, in_features: int, seed: int = 0) -> None:
        super().__init__(rows, in_features, seed)
        self.left = max(a for a in range(1, math.isqrt(in_features) + 1) if in_features % a == 0)
        self.right = in_features // self.left

    @property
    def structured(self) -> bool:
        """False for a prime d."""
        return self.left > 1

    def factors(self) -> dict[str, Tensor]:
        """``signs`` (d,), ``left`` (used rows of A, a) and ``right`` (used rows of B, b).

        Rows of A and B have random signs of their own: Hadamard matrices have a constant first column, which
        the centring of a simplex would turn into features that no class vector reaches.
        """
        generator = torch.Generator("cpu").manual_seed(self.seed)

        def signs(count: int) -> Tensor:
            return torch.randint(0, 2, (count,), generator=generator, device="cpu").double() * 2 - 1

        columns = signs(self.in_features)
        left = orthogonal_factor(self.left) * signs(self.left)[:, None]
        right = orthogonal_factor(self.right) * signs(self.right)[:, None]
        left, right = left[: -(-self.rows // self.right)], right[: self.rows]
        return {"signs": columns, "left": left.contiguous(), "right": right.contiguous()}

    def matrix(self) -> Tensor:
        """Directions as rows: (rows, d), float64."""
        factors = self.factors()
        return torch.kron(factors["left"], factors["right"])[: self.rows] * factors["signs"]

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Coordinates (..., rows) of features (..., d)."""
        grid = (features * factors["signs"]).unflatten(-1, (self.left, self.right))
        grid = torch.nn.functional.linear(torch.matmul(factors["left"], grid), factors["right"])
        return grid.flatten(-2)[..., : self.rows]

    def adjoint(self, coefficients: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Sum of directions (..., d) with coefficients (..., rows)."""
        left, right = factors["left"], factors["right"]
        used = (len(left), len(right))
        padded = torch.nn.functional.pad(coefficients, (0, used[0] * used[1] - self.rows))
        grid = torch.matmul(left.T, torch.matmul(padded.unflatten(-1, used), right))
        return grid.flatten(-2) * factors["signs"]


class HaarBasis(Basis):
    """Uniformly random orthonormal directions: QR of a Gaussian matrix, signs fixed. Dense.

    The QR factor is made unique by a positive diagonal of R; without that, and with uniform instead of
    Gaussian entries, the first direction leans toward the all-ones vector and ReLU features cannot reach it.
    """

    @property
    def structured(self) -> bool:
        """A random rotation has no fast path."""
        return False

    def matrix(self) -> Tensor:
        """Directions as rows: (rows, d), float64."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        gaussian = torch.randn(
            self.in_features, self.rows, generator=generator, dtype=torch.float64, device="cpu"
        )
        q, r = torch.linalg.qr(gaussian)
        return (q * r.diagonal().sign()).T.contiguous()

    def factors(self) -> dict[str, Tensor]:
        """The dense directions."""
        return {"directions": self.matrix()}

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Coordinates (..., rows) of features (..., d)."""
        return torch.nn.functional.linear(features, factors["directions"])

    def adjoint(self, coefficients: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Sum of directions (..., d) with coefficients (..., rows)."""
        return torch.matmul(coefficients, factors["directions"])


BASES: dict[str, type[Basis]] = {"identity": IdentityBasis, "hadamard": HadamardBasis, "haar": HaarBasis}


def make_basis(name: str, rows: int, in_features: int, seed: int = 0) -> Basis:
    """Basis by name.

    >>> make_basis("hadamard", 10, 512).left
    16
    """
    if name not in BASES:
        raise ValueError(f"basis={name!r}: expected one of {', '.join(map(repr, BASES))}")
    return BASES[name](rows, in_features, seed)
