"""Moments of the samples of all processes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from etfhead.metrics._sync import Gather, sum_over_processes
from etfhead.metrics.class_moments import ClassMoments, recentred

__all__ = ["moments_over_processes"]


def moments_over_processes(
    moments: ClassMoments, gather: Gather, process_group: Any = None, projection: Tensor | None = None
) -> ClassMoments:
    """Moments of all processes: squares go to the common class means before they are added.

    Args:
        moments: This process', the same classes and features on every one.
        gather: torchmetrics' ``dist_sync_fn``.
        process_group: Passed to ``gather``.
        projection: As the moments were taken with.
    """
    counts = sum_over_processes(moments.counts, gather, process_group)
    sums = sum_over_processes(moments.sums, gather, process_group)
    own = recentred(moments, ClassMoments(counts, sums, *moments[2:]).means, projection)
    rest = [sum_over_processes(part, gather, process_group) if part.numel() else part for part in own[2:]]
    return ClassMoments(counts, sums, *rest)
