"""Losses with a row for each training sample: buffers that checkpoints hold and processes merge."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from etfhead.losses._label_loss import Reduction, evaluate, expected

__all__ = ["SampleLoss", "SampleState", "times_drawn"]

_PIECE = 2**22  # numbers reduced at once


class SampleState(nn.Module):
    """Base of losses that remember something of every training sample, by its index.

    The rows are buffers: they move, save and load with the module. With several processes, each writes the
    rows of the samples it draws, and :meth:`synchronize` merges them.

    Args:
        num_samples: N, the size of the training set.

    Attributes:
        touched: Which rows this process has written since the last :meth:`synchronize`, (N,) bool.
    """

    touched: Tensor
    _rows: ClassVar[tuple[str, ...]] = ()

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"num_samples={num_samples!r}: expected the size of the training set")
        self.num_samples = num_samples
        self.register_buffer("touched", torch.zeros(num_samples, dtype=torch.bool))

    def checked_index(self, index: Tensor | None, logits: Tensor) -> Tensor:
        """Sample indices (B,) as int64 on the device of the logits.

        Raises:
            ValueError: If they are missing, of the wrong shape or type, or out of range. An index that is on
                a GPU already is not read back; there, one out of range stops the kernel.
        """
        if index is None:
            raise ValueError(
                f"index: missing; {type(self).__name__} keeps a row for each sample, so call it with "
                "loss(logits, target, index), index being each sample's position in the training set"
            )
        integral = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
        if not integral or index.shape != logits.shape[:1]:
            raise ValueError(
                f"index: expected integers ({len(logits)},), one a sample, got {index.dtype} "
                f"{tuple(index.shape)}"
            )
        if index.device.type == "cpu" and len(index):
            low, high = (int(bound) for bound in index.aminmax())
            if low < 0 or high >= self.num_samples:
                raise ValueError(
                    f"index: expected 0 to {self.num_samples - 1}, got {low} to {high}; num_samples must be "
                    "the size of the training set"
                )
        return index.to(self.touched.device, torch.int64, non_blocking=True)

    @torch.no_grad()
    def add_to_rows(self, name: str, index: Tensor, change: Tensor) -> None:
        """Add a change to the rows of an index, of a sample drawn twice the sum of both."""
        rows: Tensor = getattr(self, name)
        rows.index_add_(0, index, change.to(rows))
        self.touched.index_fill_(0, index, True)

    @torch.no_grad()
    def synchronize(self, process_group: Any = None) -> None:
        """Merge the rows of all processes; call it on every one, after an epoch and before saving.

        A row that one process has written since the last call goes to all others as it is; one that several
        have written (samplers repeat samples to fill the last batch) becomes their mean; the rest stay.
        Without :mod:`torch.distributed`, or on one process, this changes no row.

        Args:
            process_group: Of :mod:`torch.distributed`; None takes the default one.
        """
        if dist.is_available() and dist.is_initialized() and dist.get_world_size(process_group) > 1:
            writers = self.touched.to(torch.int32)
            dist.all_reduce(writers, group=process_group)
            for name in self._rows:
                self._merge(getattr(self, name), writers, process_group)
        self.touched.zero_()

    def _merge(self, rows: Tensor, writers: Tensor, process_group: Any) -> None:
        size = max(1, _PIECE // max(1, rows[0].numel()))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            shape = (-1, *([1] * (rows.ndim - 1)))
            number = writers[start : start + size].view(shape)
            sums = torch.where(self.touched[start : start + size].view(shape), part, 0.0)
            dist.all_reduce(sums, group=process_group)
            part.copy_(torch.where(number > 0, sums / number.clamp(min=1), part))


def times_drawn(index: Tensor) -> Tensor:
    """How often each sample of a batch is in it, (B,), without a question to a GPU.

    >>> times_drawn(torch.tensor([7, 3, 7]))
    tensor([2, 1, 2])
    """
    index = index.contiguous()  # a column of a table is not, of which searchsorted warns
    ordered = index.sort().values
    return torch.searchsorted(ordered, index, right=True) - torch.searchsorted(ordered, index)


class SampleLoss(SampleState):
    """A loss of logits, labels and the samples' indices; without an index, in evaluation mode, cross-entropy.

    A subclass gives :meth:`_losses`.

    Args:
        num_samples: N, the size of the training set.
        num_classes: K.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
    """

    _shown: ClassVar[tuple[str, ...]] = ()
    _own_softmax: ClassVar[bool] = False

    def __init__(self, num_samples: int, num_classes: int, reduction: Reduction) -> None:
        super().__init__(num_samples)
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes!r}: expected at least 2")
        self.num_classes, self.reduction = num_classes, reduction

    def forward(self, logits: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """The loss of a batch; in training mode the rows of its samples are updated.

        Raises:
            ValueError: If shapes or types do not fit, or the index is out of range, or missing in training.
        """
        if index is None and not self.training:
            return evaluate(lambda x, y: expected(torch.neg, x, y), logits, target, self.reduction)
        rows = self.checked_index(index, logits)
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(f"logits: expected (B, {self.num_classes}), got {tuple(logits.shape)}")
        return evaluate(
            lambda x, y: self._losses(x, y, rows),
            logits,
            target,
            self.reduction,
            own_softmax=self._own_softmax,
        )

    def _losses(self, x: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._shown)
