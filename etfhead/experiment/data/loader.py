"""Data loaders that leave the global generators, the signals and the error messages alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from etfhead.errors import DataError
from etfhead.experiment.data.workers import start_method, start_worker, watched

__all__ = ["make_eval_loader", "make_train_loader"]


class _Loader(DataLoader[Any]):
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from watched(super().__iter__) if self.num_workers else super().__iter__()
        except DataError as error:
            # A worker's error arrives as its whole traceback; its last line is the message.
            line = str(error).strip().splitlines()[-1]
            raise DataError(line.removeprefix(f"{DataError.__module__}.{DataError.__name__}: ")) from error


def _options(workers: int, pin_memory: bool) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "pin_memory": pin_memory,
        "persistent_workers": workers > 0,
        "worker_init_fn": start_worker if workers else None,
        "multiprocessing_context": start_method() if workers else None,
        # Without a generator of its own a loader draws from the global one at every pass, and a resumed
        # run would see other dropout masks than an uninterrupted one.
        "generator": torch.Generator(),
    }


def make_train_loader(
    train: Dataset[Any],
    batch_sampler: Sampler[list[tuple[int, int]]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Loader of the training split in the order of a ``KeyedBatchSampler``.

    Args:
        train: ``splits.train``; with ``IndexedDataset`` batches also hold positions.
        batch_sampler: Yields lists of (index, key); call its ``set_epoch`` before every pass.
        workers: Worker processes, kept between passes.
        pin_memory: Copy batches to page-locked memory, for CUDA.

    Returns:
        Loader of (images (B, C, H, W) float32, labels (B,) int64).
    """
    return _Loader(train, batch_sampler=batch_sampler, **_options(workers, pin_memory))


def make_eval_loader(
    dataset: Dataset[tuple[Tensor, int]], batch_size: int, *, workers: int = 0, pin_memory: bool = False
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Loader of a validation or test split in its own order, last partial batch included.

    Args:
        dataset: ``splits.val`` or ``splits.test``.
        batch_size: Images a batch.
        workers: Worker processes, kept between passes.
        pin_memory: Copy batches to page-locked memory, for CUDA.

    Returns:
        Loader of (images (B, C, H, W) float32, labels (B,) int64).
    """
    return _Loader(dataset, batch_size=batch_size, **_options(workers, pin_memory))
