"""Sums over processes for metrics whose states are sized by the first batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["agree_on_width", "sum_over_processes"]

# Numbers gathered at once: the copies of all processes never lie in memory together (32 MB each).
_PIECE = 2**22

Gather = Callable[..., Sequence[Tensor]]


def sum_over_processes(tensor: Tensor, gather: Gather, process_group: Any = None) -> Tensor:
    """Sum of a tensor over all processes, added in process order: the same bits on each.

    Args:
        tensor: Of the same shape on every process.
        gather: torchmetrics' ``dist_sync_fn``: a tensor to the list of every process's.
        process_group: Passed to ``gather``.
    """
    pieces = [
        torch.stack(list(gather(piece.contiguous(), group=process_group))).sum(0)
        for piece in tensor.reshape(-1).split(_PIECE)
    ]
    return torch.cat(pieces).view(tensor.shape)


def agree_on_width(width: int, device: torch.device, gather: Gather, process_group: Any = None) -> int:
    """The number of features that the processes have seen; 0 if none has seen a batch.

    Args:
        width: This process's, 0 if it has seen none.
        device: Of the states.
        gather: torchmetrics' ``dist_sync_fn``.
        process_group: Passed to ``gather``.

    Raises:
        ValueError: On every process, if two have seen features of different width.
    """
    widths = {int(w) for w in gather(torch.tensor([width], device=device), group=process_group)} - {0}
    if len(widths) > 1:
        raise ValueError(f"features: processes have seen different widths, {sorted(widths)}")
    return widths.pop() if widths else 0
