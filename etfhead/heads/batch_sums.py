"""What a batch says about its classes: weighted feature sums, the same on every process of a group."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

__all__ = ["BatchSums", "batch_sums", "countable", "is_shared"]

_KNOWN = ("cpu",)  # devices whose numbers can be asked for without waiting


class BatchSums(NamedTuple):
    """Feature sums of the classes that a batch touches.

    On a CPU these are the classes with a weight above 0, each once. Elsewhere asking which they are would
    mean to wait for the device: rows are as many as the batch has names of classes.

    Attributes:
        rows: The class of each row, (u,) int64, or a slice of all.
        first: Where a class may have several rows, each with all of its sums: which of them to take when
            adding over classes, (u,) bool. None where it has one.
        pull: Sum of the features that belong to each, (u, d).
        pull_weight: Their number, or their total target weight, (u,).
        push: Sum of the features that each is the closest wrong class of, (u, d); None without rivals.
        push_weight: Their number, (u,).
    """

    rows: Tensor | slice
    first: Tensor | None
    pull: Tensor
    pull_weight: Tensor
    push: Tensor | None
    push_weight: Tensor | None

    def touched(self) -> Tensor | None:
        """Which rows have a weight above 0, (u,) bool; None where all do. Others say nothing."""
        if self.first is None and isinstance(self.rows, Tensor):
            return None
        pulled = self.pull_weight > 0
        return pulled if self.push_weight is None else pulled | (self.push_weight > 0)


def is_shared() -> bool:
    """Whether there is a group of several processes, which must make every update together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def countable(features: Tensor, target: Tensor) -> Tensor:
    """Which samples count, (B,): those with finite features and, of class targets (B,), none below 0."""
    finite = features.abs().amax(1) < torch.inf  # NaN is not
    return finite & (target >= 0) if target.ndim == 1 else finite


def batch_sums(features: Tensor, target: Tensor, num_classes: int, rivals: Tensor | None = None) -> BatchSums:
    """Sum features by class over all processes, in O(B d) for integer targets.

    Samples with a negative target (cross-entropy's ``ignore_index``) or non-finite features are left out. Of
    soft targets, what a sample gives to every class alike (label smoothing) is left out. Processes exchange
    the cheaper of two things: their sums, or their samples.

    Args:
        features: (B, d) float32 or float64; B may differ between processes.
        target: Classes (B,), or weights (B, K).
        num_classes: K.
        rivals: The closest wrong class of each sample, (B,); None for no push.

    Returns:
        BatchSums: Of all classes or, where the batch names fewer than K, of these.

    >>> sums = batch_sums(torch.eye(3), torch.tensor([4, 1, 4]), 6)
    >>> sums.rows.tolist(), sums.pull.tolist(), sums.pull_weight.tolist()
    ([1, 4], [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], [1.0, 2.0])
    """
    drop = ~countable(features, target)
    # The last column counts: 1, and 0 like all its features for a sample that is left out.
    counted = nn.functional.pad(features, (0, 1), value=1.0).masked_fill_(drop[:, None], 0.0)
    soft, shared = target.ndim == 2, is_shared()
    if soft:
        pulled = target.to(counted)
        pulled = (pulled - pulled.amin(1, keepdim=True)).masked_fill_(drop[:, None], 0.0)
    else:
        pulled = target.masked_fill(drop, 0)
    # No rivals are no samples to push: counted[: len(pushed)] below.
    pushed = target.new_empty(0, dtype=torch.int64) if rivals is None else rivals.masked_fill(drop, 0)
    if shared and not soft:
        lengths = _lengths(features)
        if 2 * num_classes > sum(lengths):
            counted, pulled = _gather(counted, lengths), _gather(pulled, lengths)
            pushed = pushed if rivals is None else _gather(pushed, lengths)
            shared = False
    kinds = 1 if rivals is None else 2
    if soft or shared or num_classes <= kinds * len(counted):
        return _sums_of_all(counted, pulled, pushed, num_classes, kinds, shared=shared)
    return _sums_of_samples(counted, pulled, pushed, num_classes, kinds)


def _sums_of_all(
    counted: Tensor, pulled: Tensor, pushed: Tensor, num_classes: int, kinds: int, *, shared: bool
) -> BatchSums:
    """A row of sums for every class."""
    sums = counted.new_zeros(kinds, num_classes, counted.shape[1])
    if pulled.ndim == 2:
        torch.mm(pulled.T, counted, out=sums[0])
    else:
        sums[0].index_add_(0, pulled, counted)
    if kinds == 2:
        sums[1].index_add_(0, pushed, counted)
    if shared:
        dist.all_reduce(sums)
    if pulled.ndim == 2 and sums.device.type in _KNOWN:  # soft targets name few of many classes
        rows = (sums[..., -1] > 0).any(0).nonzero().flatten()
        return _named(rows, None, sums[:, rows])
    return _named(slice(None), None, sums)


def _sums_of_samples(
    counted: Tensor, pulled: Tensor, pushed: Tensor, num_classes: int, kinds: int
) -> BatchSums:
    """A row of sums for every name of a class in the batch; on a CPU for every class named."""
    rows = torch.cat([pulled, pushed])
    names = torch.arange(len(rows), device=rows.device)
    # Of all names of a class one, whichever was written last, is the place of its sums.
    place = rows.new_empty(num_classes).scatter_(0, rows, names)[rows]
    sums = counted.new_zeros(kinds, len(rows), counted.shape[1])
    sums[0].index_add_(0, place[: len(pulled)], counted)
    if kinds == 2:
        sums[1].index_add_(0, place[len(pulled) :], counted)
    first = place == names
    if sums.device.type in _KNOWN:
        taken = (first & (sums[..., -1] > 0).any(0)).nonzero().flatten()
        return _named(rows[taken], None, sums[:, taken])
    return _named(rows, first, sums[:, place])


def _named(rows: Tensor | slice, first: Tensor | None, sums: Tensor) -> BatchSums:
    pull, push = sums[0], sums[1] if len(sums) == 2 else None
    return BatchSums(
        rows,
        first,
        pull[:, :-1],
        pull[:, -1],
        None if push is None else push[:, :-1],
        None if push is None else push[:, -1],
    )


def _lengths(tensor: Tensor) -> list[int]:
    """How many rows each process has: the one thing for which a GPU is waited for."""
    own = torch.full((1,), len(tensor), device=tensor.device)
    lengths = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, own)
    return torch.cat(lengths).tolist()


def _gather(tensor: Tensor, lengths: list[int]) -> Tensor:
    """The rows of all processes in order of rank."""
    padded = torch.cat([tensor, tensor.new_zeros(max(lengths) - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
