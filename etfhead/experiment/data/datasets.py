"""Map-style data sets over a fetcher, with the batched access that PyTorch's loader looks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["EvalDataset", "Fetch", "IndexedDataset", "TrainDataset"]

Item = tuple[Tensor, int]


class Fetch(Protocol):
    """From positions and keys to one normalised float32 tensor (C, H, W) each."""

    def __call__(self, indices: Sequence[int], keys: Sequence[int]) -> Sequence[Tensor]:
        """Make the tensors; ``keys`` is empty where nothing is random."""
        ...


class _Items(Dataset[Item]):
    def __init__(self, fetch: Fetch, labels: npt.NDArray[np.int64]) -> None:
        self.fetch = fetch
        self.labels: list[int] = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def _load(self, indices: Sequence[int], keys: Sequence[int]) -> list[Item]:
        labels = [self.labels[i] for i in indices]
        return list(zip(self.fetch(indices, keys), labels, strict=True))


class EvalDataset(_Items):
    """Items by position: ``dataset[i]`` is ``(image, label)``.

    Args:
        fetch: Makes the tensors.
        labels: (n,) class indices, kept as the list ``labels``.
    """

    def __getitem__(self, index: int) -> Item:
        return self._load([index], ())[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        return self._load(indices, ())


class IndexedDataset(Dataset[tuple[Tensor, int, int]]):
    """A :class:`TrainDataset` whose items also tell their position: ``(image, label, index)``.

    Args:
        items: The data set.
    """

    def __init__(self, items: TrainDataset) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int, int]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> list[tuple[Tensor, int, int]]:
        found = self.items.__getitems__(items)
        return [(image, label, index) for (image, label), (index, _) in zip(found, items, strict=True)]


class TrainDataset(_Items):
    """Items by position and key: ``dataset[i, key]`` is ``(image, label)``, the same for the same key.

    Args:
        fetch: Makes the tensors.
        labels: (n,) class indices, kept as the list ``labels``.
    """

    def __getitem__(self, item: tuple[int, int]) -> Item:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> list[Item]:
        return self._load([index for index, _ in items], [key for _, key in items])
