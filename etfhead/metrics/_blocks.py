"""Square matrices of classes by classes, read a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["Blocks", "given", "inner_products", "unit_distance"]

_NUMBERS = 2**22  # of a block: 32 MB in float64


class Blocks:
    """A (C, C) matrix that is never held in one piece.

    Args:
        classes: C.
        rows: Gives the rows start..stop - 1, (stop - start, C), in memory of their own.
        same_norm: A smaller matrix of the same Frobenius norm, if one is known.
    """

    def __init__(
        self, classes: int, rows: Callable[[int, int], Tensor], same_norm: Tensor | None = None
    ) -> None:
        self.classes = classes
        self.rows = rows
        self._same_norm = same_norm

    def spans(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows that make up the matrix."""
        step = max(1, _NUMBERS // self.classes)
        for start in range(0, self.classes, step):
            yield start, min(start + step, self.classes)

    def norm(self) -> Tensor:
        """Frobenius norm, a scalar."""
        if self._same_norm is not None:
            return self._same_norm.norm()
        return torch.stack([self.rows(*span).square().sum() for span in self.spans()]).sum().sqrt()


def inner_products(left: Tensor, right: Tensor) -> Blocks:
    """``left @ right.T`` of two (C, d)."""
    narrow = left is right and left.shape[1] < len(left)
    same_norm = left.T @ left if narrow else None
    return Blocks(len(left), lambda start, stop: left[start:stop] @ right.T, same_norm)


def given(
    matrix: Tensor,
    like: Tensor,
    seen: Tensor | None = None,
    *,
    centre_rows: bool = False,
    centre_columns: bool = False,
) -> Blocks:
    """A (K, K) matrix that is at hand, not copied: its classes seen, its largest entry scaled to 1.

    Args:
        matrix: (K, K), anywhere.
        like: Says in which type and where the blocks are wanted.
        seen: (C,) indices of the classes; all of them if None.
        centre_rows: Whether every column loses its mean over the classes seen.
        centre_columns: Whether every row loses its mean over the classes seen.
    """
    low, high = matrix.aminmax()
    scale = float(torch.maximum(-low, high))
    index = None if seen is None else seen.to(matrix.device)

    def rows(start: int, stop: int) -> Tensor:
        block = matrix[start:stop] if index is None else matrix[index[start:stop]][:, index]
        block = block.to(like.dtype).to(like.device) / scale  # in two steps: mps cannot hold float64
        return block - block.mean(1, keepdim=True) if centre_columns else block

    blocks = Blocks(len(matrix if index is None else index), rows)
    if not centre_rows:
        return blocks
    mean = torch.stack([rows(*span).sum(0) for span in blocks.spans()]).sum(0) / blocks.classes
    return Blocks(blocks.classes, lambda start, stop: rows(start, stop) - mean)


def unit_distance(one: Blocks, other: Blocks, one_norm: Tensor, other_norm: Tensor) -> Tensor:
    """Frobenius distance of two matrices, each divided by its norm; a scalar.

    The difference is squared entry by entry: a distance near zero keeps its digits, which
    sqrt(2 - 2 <.,.>) loses at 1e-8.
    """
    squares = []
    for span in one.spans():
        gap = one.rows(*span).div_(one_norm).sub_(other.rows(*span).div_(other_norm))
        squares.append(gap.square_().sum())
    return torch.stack(squares).sum().sqrt()
