"""Going through the classes of a frame block by block, so that B x K numbers are never held at once."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.frames.base import Frame, checked_size

__all__ = [
    "BlockProducts",
    "WrittenBlocks",
    "block_grid",
    "block_products",
    "entered",
    "inverse",
    "stored_order",
    "streamed_topk",
]

# Numbers of a block's logits. On a CPU 2 MB of float32, the level-2 cache of one core: a block that stays
# there is written, exponentiated and summed without memory traffic. On a GPU kernels must take longer than
# their launches: twice as many are 15 to 20 % faster at half a gigabyte more (benchmarks/frame_loss_blocks).
_CELLS = {"cpu": 2**19, "cuda": 2**25}
_ROWS = {"cpu": 512, "cuda": 4096}  # samples at once: enough for the products to run at full speed


class BlockProducts:
    """A frame's block products with factors of one floating type.

    Structured frames have small factors, which are cast once; a dense weight of another type is cast a slice
    at a time, for a copy would be as large as itself.

    Args:
        frame: The frame.
        factors: Its factors, of any floating type.
        dtype: Type of the products.
    """

    def __init__(self, frame: Frame, factors: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.frame, self.dtype = frame, dtype
        self._sliced = factors.keys() == {"weight"} and factors["weight"].dtype != dtype
        self.factors = factors if self._sliced else {name: self._cast(f) for name, f in factors.items()}

    def _cast(self, factor: Tensor) -> Tensor:
        return factor.to(self.dtype) if factor.is_floating_point() else factor

    def _block(self, start: int, stop: int) -> tuple[dict[str, Tensor], int, int]:
        if not self._sliced:
            return self.factors, start, stop
        return {"weight": self._cast(self.factors["weight"][start:stop])}, 0, stop - start

    def logits(self, x: Tensor, start: int, stop: int) -> Tensor:
        """:meth:`Frame.block_logits` in a tensor of its own, which may be overwritten."""
        z = self.frame.block_logits(x, *self._block(start, stop))
        # Axes as class vectors make a block a view of the features.
        return z.clone() if z.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() else z

    def adjoint(self, coefficients: Tensor, start: int, stop: int) -> Tensor:
        """:meth:`Frame.block_adjoint`."""
        return self.frame.block_adjoint(coefficients, *self._block(start, stop))

    def vectors(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The stored vectors at ``index`` (N,), as entered features meet them: (N, d)."""
        return self.frame.stored_vectors(index, self.factors, dtype)


class WrittenBlocks(BlockProducts):
    """The same products, of class vectors that are written out block by block.

    A GPU takes less time for a dense product in half precision than for going through memory once for each
    small factor of a structured frame. The last block is kept: logits and adjoint follow each other.
    """

    def __init__(self, frame: Frame, factors: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.frame, self.dtype, self.factors = frame, dtype, factors
        self._last: tuple[int, int, Tensor] | None = None

    def _written(self, start: int, stop: int) -> Tensor:
        if self._last is None or self._last[:2] != (start, stop):
            self._last = None  # free it first
            self._last = (start, stop, self.frame.written_block(self.factors, start, stop, self.dtype))
        return self._last[2]

    def logits(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Inner products with the vectors start..stop - 1."""
        return torch.nn.functional.linear(x, self._written(start, stop))

    def adjoint(self, coefficients: Tensor, start: int, stop: int) -> Tensor:
        """Their transpose."""
        return torch.matmul(coefficients, self._written(start, stop))


def block_products(frame: Frame, factors: dict[str, Tensor], dtype: torch.dtype) -> BlockProducts:
    """The faster kind of a frame's block products in ``dtype`` on the factors' device."""
    half_on_gpu = dtype.itemsize < 4 and any(factor.device.type != "cpu" for factor in factors.values())
    written = half_on_gpu and frame.structured and frame.writes_blocks
    return (WrittenBlocks if written else BlockProducts)(frame, factors, dtype)


def block_grid(frame: Frame, rows: int, device: torch.device, block: int | None = None) -> tuple[int, int]:
    """How many samples and how many classes to go through at once.

    Args:
        frame: The frame; a block is a multiple of its ``block_size``, or all K classes.
        rows: B, how many samples there are.
        device: Where the logits are.
        block: Classes in a block, rounded up to what the frame allows; by default as many as make
            2 MB of float32 logits on a CPU and 128 MB on a GPU, where class vectors take at most four times
            as much.

    Returns:
        tuple[int, int]: Samples and classes of a block.

    >>> from etfhead.frames import SimplexFrame
    >>> block_grid(SimplexFrame(4, 8), 2, torch.device("cpu"))
    (2, 4)
    """
    kind = device.type if device.type in _CELLS else "cuda"
    rows, unit, classes = max(1, min(rows, _ROWS[kind])), frame.block_size, frame.num_classes
    if block is None:
        wide = rows if kind == "cpu" else max(rows, frame.in_features // 4)
        block = max(1, round(_CELLS[kind] / wide / unit)) * unit
        rows = min(rows, max(1, _CELLS[kind] // min(block, classes)))
    else:
        block = -(-checked_size("block", block, 1) // unit) * unit
    return rows, min(block, classes)


def entered(x: Tensor, frame: Frame, factors: dict[str, Tensor]) -> Tensor:
    """:meth:`Frame.enter` in the type of the features x (..., d), whatever the factors' type."""
    if type(frame).enter is Frame.enter:
        return x
    return frame.enter(x, {name: f.to(x) if f.is_floating_point() else f for name, f in factors.items()})


def stored_order(frame: Frame, factors: dict[str, Tensor], device: torch.device) -> Tensor | None:
    """The stored vector of each class, (K,), or None where class k has vector k."""
    if type(frame).stored_index is Frame.stored_index:
        return None
    return frame.stored_index(torch.arange(frame.num_classes, device=device), factors)


def inverse(order: Tensor) -> Tensor:
    """The inverse of a permutation (K,): the class of each stored vector."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


@torch.no_grad()
def streamed_topk(
    x: Tensor, frame: Frame, factors: dict[str, Tensor], k: int, *, block: int | None = None
) -> torch.return_types.topk:
    """The k largest inner products of each sample and their classes, without holding all K of them.

    Args:
        x: Features (..., d), in the factors' type or one that it promotes to.
        frame: The frame.
        factors: Its factors, on the features' device.
        k: From 1 to K.
        block: Classes at once; by default :func:`block_grid`'s.

    Returns:
        torch.return_types.topk: ``values`` and ``indices``, (..., k), without gradients.

    Raises:
        ValueError: If k, block or the features' width does not fit.

    >>> from etfhead.frames import SimplexFrame
    >>> frame = SimplexFrame(4, 8)
    >>> streamed_topk(frame.matrix()[[2, 0]], frame, frame.factors(), 1).indices.tolist()
    [[2], [0]]
    """
    if not 1 <= checked_size("k", k, 1) <= frame.num_classes:
        raise ValueError(f"k={k!r}: expected an integer from 1 to num_classes={frame.num_classes}")
    if x.shape[-1:] != (frame.in_features,):
        raise ValueError(f"x: expected a last dimension of {frame.in_features}, got shape {tuple(x.shape)}")
    products = block_products(frame, factors, x.dtype)
    features = entered(x.reshape(-1, frame.in_features), frame, factors)
    rows, classes = block_grid(frame, len(features), x.device, block)
    order = stored_order(frame, factors, x.device)
    class_of = None if order is None else inverse(order)
    values, indices = [], []
    for part in features.split(rows):
        best, where = part.new_empty(len(part), 0), part.new_empty(len(part), 0, dtype=torch.long)
        for start in range(0, frame.num_classes, classes):
            z = products.logits(part, start, min(start + classes, frame.num_classes))
            found = z.topk(min(k, z.shape[1]))
            merged = torch.cat([best, found.values], 1)
            best, chosen = merged.topk(min(k, merged.shape[1]))
            where = torch.cat([where, found.indices + start], 1).gather(1, chosen)
        values.append(best)
        indices.append(where if class_of is None else class_of[where])
    shape = (*x.shape[:-1], k)
    result = [torch.cat(parts).reshape(shape) for parts in (values, indices)]
    return torch.return_types.topk(result)  # type: ignore[arg-type]
