"""Metrics whose states are sized by the first batch, here or on another process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchmetrics.utilities.distributed import gather_all_tensors

from etfhead.metrics._sync import Gather, agree_on_width
from etfhead.metrics._wide_metric import WideMetric

__all__ = ["SizedMetric"]


class SizedMetric(WideMetric):
    """A metric whose states have no size until the number of features is known.

    A subclass says what that number is (:attr:`in_features`), makes empty states for one
    (:meth:`_make_states`) and adds them up over processes (:meth:`_sum_states`). A process without a batch
    takes part with empty states of the others' size.
    """

    @property
    def in_features(self) -> int:
        """The d of the features seen; 0 before the first batch."""
        raise NotImplementedError

    def _make_states(self, width: int, device: torch.device) -> None:
        """Replace the states by those of no sample with ``width`` features."""
        raise NotImplementedError

    def _sum_states(self, gather: Gather, group: Any) -> None:
        """Replace the states by their sums over processes; all have the same size."""
        raise NotImplementedError

    def _take_width(self, width: int, device: torch.device) -> None:
        """Size the states, unless they are."""
        if not self.in_features:
            with torch.inference_mode(False):  # else later batches outside of it could not be added in place
                self._make_states(width, device)

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None
    ) -> None:
        """Sum over processes, unless none has seen a batch."""
        group = process_group or self.process_group
        if width := agree_on_width(self.in_features, self.device, dist_sync_fn, group):
            self._take_width(width, self.device)
            self._sum_states(dist_sync_fn, group)
