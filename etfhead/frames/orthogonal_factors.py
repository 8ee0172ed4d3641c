"""Small orthogonal matrices that fast bases are made of: Hadamard where one is known, else a DCT."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["dct_matrix", "hadamard_matrix", "helmert_matrix", "orthogonal_factor"]

# Not the default device: frames are the same tensors under any torch.device context.
_EXACT: Any = {"dtype": torch.float64, "device": "cpu"}


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % p for p in range(2, math.isqrt(n) + 1))


def _jacobsthal(q: int) -> Tensor:
    """Q[i, j] = chi(i - j) over GF(q) for a prime q, chi the quadratic character."""
    chi = torch.full((q,), -1.0, **_EXACT)
    chi[torch.arange(1, q, device="cpu") ** 2 % q] = 1.0
    chi[0] = 0.0
    index = torch.arange(q, device="cpu")
    return chi[(index[:, None] - index[None, :]) % q]


def _conference(q: int, sign: float) -> Tensor:
    """Bordered Jacobsthal matrix of order q + 1; symmetric for sign = 1, skew for sign = -1."""
    matrix = torch.zeros(q + 1, q + 1, **_EXACT)
    matrix[0, 1:], matrix[1:, 0], matrix[1:, 1:] = 1.0, sign, _jacobsthal(q)
    return matrix


def hadamard_matrix(order: int) -> Tensor | None:
    r"""Hadamard matrix, entries +-1 with H H^T = n I, or None where no construction here reaches the order.

    Sylvester's doubling and Paley's two constructions over prime fields (Paley, J. Math. Phys. 12, 1933)
    cover every order 1, 2, 4k up to 48 and most beyond. All entries are exact.

    Args:
        order: n >= 1.

    Returns:
        Tensor: (n, n) float64, or None.

    >>> H = hadamard_matrix(12)
    >>> bool((H @ H.T == 12 * torch.eye(12)).all())
    True
    >>> hadamard_matrix(6) is None
    True
    """
    if order in (1, 2):
        return torch.tensor([[1.0]] if order == 1 else [[1.0, 1.0], [1.0, -1.0]], **_EXACT)
    if order < 1 or order % 4:
        return None
    if (half := hadamard_matrix(order // 2)) is not None:
        return torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], **_EXACT), half)
    eye = torch.eye(order, **_EXACT)
    if _is_prime(q := order - 1):  # order % 4 == 0, so q = 3 mod 4
        return eye + _conference(q, -1.0)
    q = order // 2 - 1
    if q % 4 == 1 and _is_prime(q):
        spin = torch.tensor([[1.0, 1.0], [1.0, -1.0]], **_EXACT)
        rest = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], **_EXACT)
        return torch.kron(_conference(q, 1.0), spin) + torch.kron(eye[: q + 1, : q + 1], rest)
    return None


def dct_matrix(order: int) -> Tensor:
    """Orthonormal DCT-II matrix, (n, n) float64: rows are cosines of growing frequency."""
    index = torch.arange(order, **_EXACT)
    matrix = torch.cos(math.pi / order * (index[None, :] + 0.5) * index[:, None]) * math.sqrt(2.0 / order)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def orthogonal_factor(order: int) -> Tensor:
    """Orthonormal matrix of any order: Hadamard / sqrt(n) where one is known, else DCT-II."""
    hadamard = hadamard_matrix(order)
    return dct_matrix(order) if hadamard is None else hadamard / math.sqrt(order)


def helmert_matrix(num_classes: int) -> Tensor:
    """Orthonormal basis of the vectors whose K entries sum to zero, as columns: (K, K - 1) float64.

    >>> V = helmert_matrix(4)
    >>> bool(torch.allclose(V.T @ V, torch.eye(3).double()) and V.sum(0).abs().max() < 1e-15)
    True
    """
    j = torch.arange(1, num_classes, **_EXACT)
    matrix = torch.triu(torch.ones(num_classes, num_classes - 1, **_EXACT))
    matrix[1:] -= torch.diag(j)  # triu puts nothing below the diagonal: row j of column j holds -j
    return matrix / torch.sqrt(j * (j + 1))
