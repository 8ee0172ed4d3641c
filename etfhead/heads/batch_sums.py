"""What a batch says about its classes: weighted feature sums, the same on every process of a group."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["BatchSums", "batch_sums", "countable", "is_shared"]


class BatchSums(NamedTuple):
    """Feature sums of the classes that a batch touches.

    Attributes:
        rows: The classes, (u,) int64, ascending, each once.
        pull: Sum of the features that belong to each, (u, d).
        pull_weight: Their number, or their total target weight, (u,).
        push: Sum of the features that each is the closest wrong class of, (u, d).
        push_weight: Their number, (u,).
    """

    rows: Tensor
    pull: Tensor
    pull_weight: Tensor
    push: Tensor
    push_weight: Tensor


def is_shared() -> bool:
    """Whether there is a group of several processes, which must make every update together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def countable(features: Tensor, target: Tensor) -> Tensor:
    """Which samples count, (B,): those with finite features and, of class targets (B,), none below 0."""
    finite = features.isfinite().all(1)
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
        BatchSums: Of the classes with a pull or push weight above 0.

    >>> sums = batch_sums(torch.eye(3), torch.tensor([4, 1, 4]), 6)
    >>> sums.rows.tolist(), sums.pull.tolist(), sums.pull_weight.tolist()
    ([1, 4], [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], [1.0, 2.0])
    """
    keep = countable(features, target)
    features, target = features[keep], target[keep]
    # No rivals are no samples to push: features[: len(rivals)] below.
    rivals = target.new_empty(0, dtype=torch.int64) if rivals is None else rivals[keep]
    shared = is_shared()
    dense = target.ndim == 2 or (shared and _sums_are_smaller(features, num_classes))
    if shared and not dense:
        features, target, rivals = (_gather(tensor) for tensor in (features, target, rivals))
    if dense:
        sums = _sums_of_all(features, target, rivals, num_classes)
        if shared:
            dist.all_reduce(sums)
        rows = (sums[..., -1] > 0).any(0).nonzero().flatten()
        sums = sums[:, rows]
    else:
        rows, inverse = torch.unique(torch.cat([target, rivals]), return_inverse=True)
        sums = _sums_of_all(features, inverse[: len(target)], inverse[len(target) :], len(rows))
    pull, push = sums
    return BatchSums(rows, pull[:, :-1], pull[:, -1], push[:, :-1], push[:, -1])


def _sums_of_all(features: Tensor, target: Tensor, rivals: Tensor, num_classes: int) -> Tensor:
    """Pulls and pushes of every class with their weights in the last column, (2, K, d + 1)."""
    counted = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    sums = counted.new_zeros(2, num_classes, counted.shape[1])
    if target.ndim == 2:
        weights = target.to(counted)
        torch.mm((weights - weights.amin(1, keepdim=True)).T, counted, out=sums[0])
    else:
        sums[0].index_add_(0, target, counted)
    sums[1].index_add_(0, rivals, counted[: len(rivals)])
    return sums


def _sums_are_smaller(features: Tensor, num_classes: int) -> bool:
    """Whether K sums are fewer than the group's samples; every process comes to the same answer."""
    samples = torch.tensor(len(features), device=features.device)
    dist.all_reduce(samples)
    return 2 * num_classes <= int(samples)


def _gather(tensor: Tensor) -> Tensor:
    """The rows of all processes in order of rank; their numbers may differ."""
    own = torch.tensor([len(tensor)], device=tensor.device)
    lengths = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, own)
    longest = max(int(length) for length in lengths)
    padded = torch.cat([tensor, tensor.new_zeros(longest - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])
