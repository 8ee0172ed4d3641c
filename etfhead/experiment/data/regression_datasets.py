"""Map-style data sets with real-valued targets, and tables as images of one pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from etfhead.experiment.data.datasets import Fetch

__all__ = ["RegressionEvalDataset", "RegressionTrainDataset", "TableFetch"]

Item = tuple[Tensor, Tensor]


class TableFetch:
    """Rows of a table as images of one pixel with a channel a column, standardised.

    Args:
        table: (N, D).
        mean: (D,), of the training split.
        std: (D,), of the training split; positive.
    """

    def __init__(
        self, table: npt.NDArray[np.float64], mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]
    ) -> None:
        self.rows = torch.from_numpy((table - mean) / std).float()[..., None, None]

    def __call__(self, indices: Sequence[int], keys: Sequence[int]) -> Sequence[Tensor]:
        """Tensors (D, 1, 1) of the rows at ``indices``; nothing is random."""
        return self.rows.index_select(0, torch.tensor(indices, dtype=torch.int64)).unbind(0)


class _Items(Dataset[Item]):
    def __init__(self, fetch: Fetch, targets: npt.NDArray[np.float64]) -> None:
        self.fetch = fetch
        self.targets = torch.from_numpy(targets).float()

    def __len__(self) -> int:
        return len(self.targets)

    def _load(self, indices: Sequence[int], keys: Sequence[int]) -> list[Item]:
        targets = self.targets[torch.tensor(indices, dtype=torch.int64)]
        return list(zip(self.fetch(indices, keys), targets.unbind(0), strict=True))


class RegressionEvalDataset(_Items):
    """Items by position: ``dataset[i]`` is ``(image, target)`` with a float32 target (n,).

    Args:
        fetch: Makes the images.
        targets: (N, n), standardised; kept as the float32 tensor ``targets``.
    """

    def __getitem__(self, index: int) -> Item:
        return self._load([index], ())[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        return self._load(indices, ())


class RegressionTrainDataset(_Items):
    """Items by position and key: ``dataset[i, key]`` is ``(image, target)``, the same for the same key.

    Args:
        fetch: Makes the images.
        targets: (N, n), standardised; kept as the float32 tensor ``targets``.
    """

    def __getitem__(self, item: tuple[int, int]) -> Item:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> list[Item]:
        return self._load([index for index, _ in items], [key for _, key in items])
