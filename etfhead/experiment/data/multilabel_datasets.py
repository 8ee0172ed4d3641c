"""Map-style data sets whose targets are multi-hot rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from etfhead.experiment.data.datasets import Fetch
from etfhead.experiment.data.splits import Indices

__all__ = ["MultiLabelEvalDataset", "MultiLabelTrainDataset"]

Item = tuple[Tensor, Tensor]


class _Items(Dataset[Item]):
    def __init__(self, fetch: Fetch, labels: Indices) -> None:
        self.fetch = fetch
        self.targets = torch.from_numpy(labels).to(torch.uint8)  # a quarter of the memory of floats

    def __len__(self) -> int:
        return len(self.targets)

    def _load(self, indices: Sequence[int], keys: Sequence[int]) -> list[Item]:
        targets = self.targets[torch.tensor(indices, dtype=torch.int64)].to(torch.float32)
        return list(zip(self.fetch(indices, keys), targets.unbind(0), strict=True))


class MultiLabelEvalDataset(_Items):
    """Items by position: ``dataset[i]`` is ``(image, target)`` with a float32 target (K,) of 0 and 1.

    Args:
        fetch: Makes the images.
        labels: (n, K) of 0 and 1, kept as the uint8 tensor ``targets``.
    """

    def __getitem__(self, index: int) -> Item:
        return self._load([index], ())[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        return self._load(indices, ())


class MultiLabelTrainDataset(_Items):
    """Items by position and key: ``dataset[i, key]`` is ``(image, target)``, the same for the same key.

    Args:
        fetch: Makes the images.
        labels: (n, K) of 0 and 1, kept as the uint8 tensor ``targets``.
    """

    def __getitem__(self, item: tuple[int, int]) -> Item:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> list[Item]:
        return self._load([index for index, _ in items], [key for _, key in items])
