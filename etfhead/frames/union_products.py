"""Products with a union of sign-modulated bases and their transpose, from two factors of its transform."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["union_adjoint", "union_products"]


def union_products(x: Tensor, left: Tensor, right: Tensor, signs: Tensor, *, antipodal: bool) -> Tensor:
    r"""Inner products of features with all vectors of the bases T diag(s_b), basis by basis.

    .. math:: z_{b d + i} = (s_b \odot t_i) \cdot x, \qquad T = A \otimes B

    Args:
        x: Features (..., d).
        left: A, (d_1, d_1); the number 1 where d_1 is 1.
        right: B, (d_2, d_2) with d_1 d_2 = d.
        signs: s_b as rows, (bases, d).
        antipodal: Each basis stands with its negatives behind it.

    Returns:
        Tensor: (..., bases d), or (..., 2 bases d) with negatives.

    >>> union_products(torch.tensor([3.0, 4.0]), torch.eye(1), torch.eye(2), torch.ones(1, 2), antipodal=True)
    tensor([ 3.,  4., -3., -4.])
    """
    left, right = _transform(left, right, like=x)
    grid = (x.unsqueeze(-2) * signs).unflatten(-1, (len(left), len(right)))
    grid = torch.nn.functional.linear(grid, right)
    if len(left) > 1:
        grid = torch.matmul(left, grid)
    if antipodal:
        grid = torch.stack([grid, -grid], dim=-3)
    return grid.flatten(x.dim() - 1)


def union_adjoint(
    coefficients: Tensor, left: Tensor, right: Tensor, signs: Tensor, *, antipodal: bool
) -> Tensor:
    """Transpose of :func:`union_products`: coefficients of whole bases to (..., d).

    >>> upstream = torch.tensor([3.0, 4.0, 1.0, 1.0])
    >>> union_adjoint(upstream, torch.eye(1), torch.eye(2), torch.ones(1, 2), antipodal=True)
    tensor([2., 3.])
    """
    left, right = _transform(left, right, like=coefficients)
    if antipodal:
        positive, negative = coefficients.unflatten(-1, (len(signs), 2, signs.shape[1])).unbind(-2)
        coefficients = (positive - negative).flatten(-2)
    grid = coefficients.unflatten(-1, (len(signs), len(left), len(right)))
    grid = torch.matmul(grid, right)
    if len(left) > 1:
        grid = torch.matmul(left.T, grid)
    grid, signs = grid.flatten(-2), signs.to(grid.dtype)
    if grid.dtype.itemsize < 4:  # rounded once, not basis by basis
        return (grid * signs).sum(-2)
    # Faster than a product of the block's size and a sum over a short axis: a third less time.
    total = grid[..., 0, :] * signs[0]
    for basis in range(1, len(signs)):
        total = torch.addcmul(total, grid[..., basis, :], signs[basis])
    return total


def _transform(left: Tensor, right: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """T as two factors; as one in half precision on a GPU, which goes through memory once less for it."""
    half = like.dtype.itemsize < 4 or torch.is_autocast_enabled(like.device.type)
    if like.device.type == "cpu" or not half or len(left) == 1:
        return left, right
    return left.new_ones(1, 1), torch.kron(left, right)
