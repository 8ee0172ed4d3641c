"""Batches of (index, key): the order of an epoch and the randomness of every item in it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from etfhead.experiment.data.rng import hash_keys

__all__ = ["KeyedBatchSampler"]

_ORDER, _ITEM = 1, 2  # separate hash streams: an item's key must not tell its place in the epoch


class KeyedBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yield lists of ``(index, key)`` for a data set whose items are drawn by key.

    The order of an epoch sorts the indices by a hash of (seed, epoch, index), and an item's key is another
    hash of the same three numbers. Neither depends on the batch size, the number of workers or the step at
    which an interrupted epoch continues.

    Args:
        n: Number of training images.
        batch_size: Images a batch; when it exceeds ``n`` the epoch is one batch of ``n``.
        seed: The run's seed.
        drop_last: Leave out the last batch when it is smaller than the others.

    Raises:
        ValueError: If ``n`` or ``batch_size`` is not positive.

    Example:
        >>> sampler = KeyedBatchSampler(10, 4, seed=0)
        >>> whole = list(sampler)
        >>> sampler.set_epoch(0, start_step=1)
        >>> len(sampler), list(sampler) == whole[1:]
        (1, True)
    """

    def __init__(self, n: int, batch_size: int, seed: int, drop_last: bool = True) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}: the training split is empty")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.n = n
        self.batch_size = min(batch_size, n)
        self.seed = seed
        self.steps = n // self.batch_size if drop_last else -(-n // self.batch_size)
        self.epoch = 0
        self.start_step = 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch that the next pass draws, and how many of its batches are already done.

        Args:
            epoch: 0-based epoch.
            start_step: Batches to leave out, 0 to the number of steps in an epoch.

        Raises:
            ValueError: If ``start_step`` lies outside the epoch.
        """
        if not 0 <= start_step <= self.steps:
            raise ValueError(f"start_step must lie in 0..{self.steps} (steps of an epoch), got {start_step}")
        self.epoch = epoch
        self.start_step = start_step

    def __len__(self) -> int:
        return self.steps - self.start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.argsort(hash_keys(np.arange(self.n), self.seed, self.epoch, _ORDER), kind="stable")
        keys = hash_keys(order, self.seed, self.epoch, _ITEM)
        for step in range(self.start_step, self.steps):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            yield list(zip(order[batch].tolist(), keys[batch].tolist(), strict=True))
