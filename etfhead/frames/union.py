"""Unions of sign-modulated orthonormal bases: any number of class vectors, about one byte each."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import DENSE_BELOW, Frame, checked_seed
from etfhead.frames.coherence import Coherence, welch_bound
from etfhead.frames.sign_sets import quadratic_capacity, quadratic_coherence, random_coherence
from etfhead.frames.union_factors import kronecker_factors, sign_vectors
from etfhead.frames.union_products import union_adjoint, union_products

__all__ = ["SIGNS", "UnionFrame"]

SIGNS = ("auto", "quadratic", "random")

_ONE_FACTOR_UP_TO = 64  # features: one (d, d) product beats two small ones, of the same vectors
_FEW_FEATURES = 16  # up to here there may be fewer different class vectors than classes
# K^2 d operations up to which random signs are measured, about a second; see coherence().
_MEASURED_UP_TO = 2**34


class UnionFrame(Frame):
    r"""Union of orthonormal bases T diag(s_b) D, b = 0, 1, ...: K unit vectors in R^d for any K.

    .. math:: m_{b d + i} = D\,(s_b \odot t_i), \qquad T = A \otimes B, \qquad s_b \in \{\pm 1\}^d

    Stored are two factors of about sqrt(d) x sqrt(d), a byte a class for s_b and a sign a feature for D.

    ``signs="quadratic"`` takes s_b from quadratic forms (:func:`~etfhead.frames.sign_sets.quadratic_signs`;
    Calderbank, Cameron, Kantor & Seidel, Proc. London Math. Soc. 75, 1997) and a Sylvester-Hadamard T. For
    d = 2^m the largest cosine is 1/sqrt(d) up to K = d^2/2 (even m, Kerdock), sqrt(2/d) up to K = d^2 (odd m,
    Gold), and doubles whenever K grows by a further d/2 or d times. For d = q 2^m with odd q the signs repeat
    on q parts and T is a DCT over these: the coherence is that of 2^m, for q times as many classes.
    ``signs="random"`` draws s_b, such that no vector occurs twice; T has Hadamard factors or DCTs.

    Args:
        num_classes: K, at least 2.
        in_features: d.
        signs: ``"quadratic"``, ``"random"``, or ``"auto"``: quadratic where enough exist and their coherence
            is below :func:`~etfhead.frames.sign_sets.random_coherence`. ``spec()`` holds the choice.
        antipodal: Take each vector and its negative: the d vectors of a basis, then their d negatives. Half
            the bases, class vectors that sum to zero, a smallest cosine of -1.
        seed: Seed of D and of random signs.

    Raises:
        ValueError: If there are too few quadratic sign vectors or class vectors, or an option is unknown.

    >>> frame = UnionFrame(2000, 64)
    >>> frame.signs, frame.coherence().max_cosine
    ('quadratic', 0.125)
    >>> frame.logits(torch.randn(8, 64)).shape
    torch.Size([8, 2000])
    """

    name = "union"

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        *,
        signs: str = "auto",
        antipodal: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(num_classes, in_features)
        if signs not in SIGNS:
            raise ValueError(f"signs={signs!r}: expected one of {', '.join(map(repr, SIGNS))}")
        if not isinstance(antipodal, bool):
            raise ValueError(f"antipodal={antipodal!r}: expected True or False")
        K, d = self.num_classes, self.in_features
        self.antipodal, self.seed = antipodal, checked_seed(seed)
        self._block = 2 * d if antipodal else d
        self._blocks = -(-K // self._block)
        self._order = d & -d  # the largest power of two that divides d
        enough = self._blocks <= (capacity := quadratic_capacity(self._order))
        if signs == "quadratic" and not enough:
            raise ValueError(
                f"num_classes={K} with in_features={d}: there are {capacity} quadratic sign vectors of "
                f'length {self._order}, enough for {capacity * self._block} classes; take "random" or "auto"'
            )
        if signs == "auto":
            limit = random_coherence(d, self._blocks)
            better = enough and quadratic_coherence(self._order, self._blocks) < limit
            signs = "quadratic" if better else "random"
        self.signs = signs
        self._left = max(a for a in range(1, math.isqrt(d) + 1) if d % a == 0)
        if signs == "random" and d <= _FEW_FEATURES:
            self._sign_vectors()  # refuses sizes for which there are too few

    @property
    def structured(self) -> bool:
        """Whether the matrix is never built: K d large enough to gain by it."""
        return self.num_classes * self.in_features > DENSE_BELOW

    @property
    def max_norm(self) -> float:
        """1: the vectors have unit norm."""
        return 1.0

    @property
    def block_size(self) -> int:
        """One basis where structured, d vectors or 2d with negatives; 1 for a dense matrix."""
        return self._block if self.structured else 1

    def _kronecker(self) -> tuple[Tensor, Tensor]:
        return kronecker_factors(self.in_features, self._left, sylvester=self.signs == "quadratic")

    def _sign_vectors(self) -> tuple[Tensor, Tensor]:
        return sign_vectors(
            self.in_features,
            self._left,
            self._blocks,
            quadratic=self.signs == "quadratic",
            antipodal=self.antipodal,
            seed=self.seed,
        )

    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, unit norm."""
        if self.structured:
            self._refuse_large_matrix()
        left, right = self._kronecker()
        flip, signs = self._sign_vectors()
        rows = min(self.num_classes, self.in_features)
        basis = torch.kron(left[: -(-rows // len(right))], right)[:rows] * flip
        matrix = torch.empty(self.num_classes, self.in_features, dtype=torch.float64, device="cpu")
        for block, signed in zip(matrix.split(self._block), signs, strict=True):
            for part, sign in zip(block.split(self.in_features), (1, -1), strict=False):
                part.copy_(basis[: len(part)] * (sign * signed))
        return matrix

    def factors(self) -> dict[str, Tensor]:
        """``left``, ``right``, ``flip`` (d,) and ``signs`` (blocks, d) int8; or the dense ``weight``."""
        if not self.structured:
            return super().factors()
        left, right = self._kronecker()
        if self.in_features <= _ONE_FACTOR_UP_TO:
            left, right = left.new_ones(1, 1), torch.kron(left, right)
        flip, signs = self._sign_vectors()
        return {"left": left, "right": right, "flip": flip, "signs": signs}

    def _signs_of(self, factors: dict[str, Tensor], start: int, stop: int) -> Tensor:
        """The signs of the bases that the vectors start..stop - 1 lie in, (bases, d)."""
        return factors["signs"][start // self._block : -(-stop // self._block)]

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Inner products of features (..., d) with every class vector, (..., K)."""
        if not self.structured:
            return super().apply(features, factors)
        return self.block_logits(self.enter(features, factors), factors, 0, self.num_classes)

    def enter(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """D features, (..., d)."""
        return features * factors["flip"] if self.structured else features

    def block_logits(self, x: Tensor, factors: dict[str, Tensor], start: int, stop: int) -> Tensor:
        """Inner products (..., stop - start) of entered features with the vectors start..stop - 1."""
        if not self.structured:
            return super().block_logits(x, factors, start, stop)
        self._check_block(start, stop)
        signs = self._signs_of(factors, start, stop)
        products = union_products(x, factors["left"], factors["right"], signs, antipodal=self.antipodal)
        return products[..., : stop - start]

    def block_adjoint(
        self, coefficients: Tensor, factors: dict[str, Tensor], start: int, stop: int
    ) -> Tensor:
        """Transpose of :meth:`block_logits`: coefficients (..., stop - start) to (..., d)."""
        if not self.structured:
            return super().block_adjoint(coefficients, factors, start, stop)
        self._check_block(start, stop)
        signs = self._signs_of(factors, start, stop)
        if missing := len(signs) * self._block - (stop - start):
            coefficients = torch.nn.functional.pad(coefficients, (0, missing))
        return union_adjoint(coefficients, factors["left"], factors["right"], signs, antipodal=self.antipodal)

    @property
    def writes_blocks(self) -> bool:
        """True: a block is one matrix times the signs of each basis."""
        return True

    def written_block(self, factors: dict[str, Tensor], start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The vectors start..stop - 1 as entered features meet them, (stop - start, d)."""
        if not self.structured:
            return super().written_block(factors, start, stop, dtype)
        self._check_block(start, stop)
        basis = torch.kron(factors["left"], factors["right"]).to(dtype)
        if self.antipodal:
            basis = torch.cat([basis, -basis])
        signs = self._signs_of(factors, start, stop).to(dtype)
        return (basis * signs[:, None]).flatten(0, 1)[: stop - start]

    def stored_vectors(self, index: Tensor, factors: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The vectors at ``index`` (N,) as entered features meet them, (N, d)."""
        if not self.structured:
            return super().stored_vectors(index, factors, dtype)
        left, right = factors["left"].to(dtype), factors["right"].to(dtype)
        place = index % self._block
        row = place % self.in_features
        vectors = (left[row // len(right), :, None] * right[row % len(right), None]).flatten(1)
        vectors = vectors * factors["signs"][index // self._block].to(dtype)
        return torch.where(place[:, None] < self.in_features, vectors, -vectors)

    def leave(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """D x, (..., d)."""
        return x * factors["flip"] if self.structured else x

    def coherence(self) -> Coherence:
        """Largest cosine, in closed form and exact for quadratic signs.

        Random ones are measured once up to K^2 d = 2^34, and beyond that report the estimate
        :func:`~etfhead.frames.sign_sets.random_coherence`.
        """
        K, d = self.num_classes, self.in_features
        welch = welch_bound(K, d)
        absolute = 1.0 if self.antipodal and d < K else 0.0
        if self._blocks == 1:
            return Coherence(-1.0 if d == 1 else 0.0, absolute, welch)
        if self.signs == "random":
            if K * K * d > _MEASURED_UP_TO:
                estimate = random_coherence(d, self._blocks)
                return Coherence(estimate, max(estimate, absolute), welch)
            return super().coherence()
        cosine = quadratic_coherence(self._order, self._blocks)
        return Coherence(cosine, max(cosine, absolute), welch)

    def spec(self) -> dict[str, Any]:
        """JSON-able description; ``make_frame(**spec)`` builds the same frame again."""
        return {**super().spec(), "signs": self.signs, "antipodal": self.antipodal, "seed": self.seed}
