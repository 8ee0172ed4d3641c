"""The orthoplex: orthonormal directions and their negatives, up to 2d class vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.frames.basis_frame import BasisFrame
from etfhead.frames.coherence import Coherence, welch_bound

__all__ = ["OrthoplexFrame"]


class OrthoplexFrame(BasisFrame):
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
        self._set_basis(basis, self._rows, seed)

    @property
    def max_norm(self) -> float:
        """1: the vectors have unit norm."""
        return 1.0

    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, unit norm."""
        directions = self._directions()
        return torch.cat([directions, -directions])[: self.num_classes]

    def _to_classes(self, coordinates: Tensor, factors: dict[str, Tensor]) -> Tensor:
        return torch.cat([coordinates, -coordinates], dim=-1)[..., : self.num_classes]

    def _to_coordinates(self, coefficients: Tensor, factors: dict[str, Tensor]) -> Tensor:
        missing = 2 * self._rows - self.num_classes
        positive, negative = torch.nn.functional.pad(coefficients, (0, missing)).chunk(2, dim=-1)
        return positive - negative

    def coherence(self) -> Coherence:
        """Exactly 0, and 1 in absolute value; -1 for K = 2, a direction and its negative."""
        return Coherence(
            -1.0 if self.num_classes == 2 else 0.0, 1.0, welch_bound(self.num_classes, self.in_features)
        )
