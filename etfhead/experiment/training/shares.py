"""What each process of a run gets of a batch and of a split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from etfhead.experiment.data import KeyedBatchSampler, make_eval_loader
from etfhead.experiment.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Loader", "Share", "dataset_size", "eval_share"]

Loader = torch.utils.data.DataLoader[tuple[Tensor, Tensor]]


class Share:
    """Each process's slice of a global batch, of an even length where mixup pairs its images."""

    def __init__(self, sampler: KeyedBatchSampler, rank: int, world: int, *, even: bool) -> None:
        self.sampler, self.rank, self.world, self.even = sampler, rank, world, even

    @property
    def size(self) -> int:
        """Images of one process in one step."""
        size = self.sampler.batch_size // self.world
        return size - size % 2 if self.even else size

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        mine = slice(self.rank * self.size, (self.rank + 1) * self.size)
        for batch in self.sampler:
            yield batch[mine]


def eval_share(dataset: Dataset[tuple[Tensor, int]], recipe: Recipe, accelerator: Accelerator) -> Loader:
    """Loader of this process's share of a validation or test split, every image once over all processes."""
    rank, world = accelerator.process_index, accelerator.num_processes
    share = dataset if world == 1 else Subset(dataset, range(rank, dataset_size(dataset), world))
    pin = accelerator.device.type == "cuda"
    return make_eval_loader(share, recipe.batch_size, workers=recipe.workers, pin_memory=pin)


def dataset_size(dataset: Any) -> int:
    """Items of a map-style data set."""
    return len(dataset)
