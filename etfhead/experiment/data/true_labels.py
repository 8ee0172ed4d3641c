"""A data set of noisy labels with the true ones beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

__all__ = ["WithTrueLabels"]


class WithTrueLabels(Dataset[Any]):
    """Items ``(image, observed label, true label)`` of a data set of ``(image, observed label)``.

    Args:
        dataset: Items by position.
        true: (n,) classes.
    """

    def __init__(self, dataset: Any, true: npt.ArrayLike) -> None:
        self.dataset = dataset
        self.true: list[int] = np.asarray(true, dtype=np.int64).tolist()
        if len(self.true) != len(dataset):
            raise ValueError(f"true: expected {len(dataset)} labels, one an item, got {len(self.true)}")

    def __len__(self) -> int:
        return len(self.true)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        image, observed = self.dataset[index]
        return image, observed, self.true[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int, int]]:
        whole = getattr(self.dataset, "__getitems__", None)
        items = [self.dataset[i] for i in indices] if whole is None else whole(indices)
        return [(image, seen, self.true[i]) for (image, seen), i in zip(items, indices, strict=True)]
