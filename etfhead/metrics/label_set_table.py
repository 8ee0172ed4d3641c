"""Moments of every distinct label set, in a table that grows with the sets that occur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from etfhead.metrics.class_moments import ClassMoments, empty_moments

__all__ = ["LabelSets", "distinct_sets", "join_sets", "set_keys"]


def set_keys(labels: Tensor) -> list[bytes]:
    """One hashable key for each multi-hot row (S, K), equal exactly for equal sets.

    >>> a, b, c = set_keys(torch.tensor([[1, 0, 1], [0, 1, 1], [1, 0, 1]]))
    >>> a == c, a == b
    (True, False)
    """
    return [row.tobytes() for row in labels.to("cpu", torch.uint8).numpy()]


class LabelSets:
    """Which row of a table of moments belongs to which label set.

    The rows are states of a metric, tensors that are copied, reset and moved; this index over them is built
    again whenever they have become other objects.
    """

    def __init__(self) -> None:
        self._of: Tensor | None = None
        self._rows: dict[bytes, int] = {}

    def find(
        self, labels: Tensor, moments: ClassMoments, wanted: Tensor
    ) -> tuple[Tensor, ClassMoments, Tensor]:
        """Rows of label sets, with new ones for sets not seen before.

        Args:
            labels: (C, K) uint8, the sets of the table's C rows; empty sets are rows not used yet.
            moments: Of those rows.
            wanted: (U, K) bool, different sets.

        Returns:
            Labels and moments, perhaps of a larger table, and the rows (U,) of the wanted sets.
        """
        if self._of is not labels:
            used = int(labels.bool().any(1).sum())
            self._rows = {key: row for row, key in enumerate(set_keys(labels[:used]))}
        keys = set_keys(wanted)
        new = [place for place, key in enumerate(keys) if key not in self._rows]
        first = len(self._rows)
        if first + len(new) > len(labels):
            # Doubled, so that copying a table costs no more than filling it.
            labels, moments = _enlarged(labels, moments, max(first + len(new), 2 * len(labels)))
        for row, place in enumerate(new, start=first):
            self._rows[keys[place]] = row
        labels[first : first + len(new)] = wanted[new].to(labels.dtype)
        self._of = labels
        rows = torch.tensor([self._rows[key] for key in keys], dtype=torch.int64, device=wanted.device)
        return labels, moments, rows


def _enlarged(labels: Tensor, moments: ClassMoments, rows: int) -> tuple[Tensor, ClassMoments]:
    options: dict[str, Any] = {"device": moments.sums.device, "dtype": moments.sums.dtype}
    with torch.inference_mode(False):  # else rows could not be added to in place outside of it
        more = empty_moments(rows, moments.sums.shape[1], 0, **options)
        grown = torch.zeros(rows, labels.shape[1], dtype=labels.dtype, device=labels.device)
    for wide, narrow in zip(more[:3], moments[:3], strict=True):
        wide[: len(narrow)] = narrow
    grown[: len(labels)] = labels
    return grown, more


def distinct_sets(tables: Sequence[Tensor]) -> Tensor:
    """Every label set of several tables (S, K) once, in an order that depends on the sets alone."""
    rows = torch.cat(list(tables))
    return rows[rows.bool().any(1)].unique(dim=0)


def join_sets(labels: Tensor, moments: ClassMoments, all_labels: Tensor) -> ClassMoments:
    """The same moments in the rows of another table that holds every one of their sets.

    Args:
        labels: (S, K), different sets; empty ones are left out.
        moments: Of those.
        all_labels: (T, K), different sets.
    """
    place = {key: row for row, key in enumerate(set_keys(all_labels))}
    used = labels.bool().any(1)
    rows = torch.tensor([place[key] for key in set_keys(labels[used])], dtype=torch.int64)
    rows = rows.to(labels.device)
    width, like = moments.sums.shape[1], moments.sums
    joined = empty_moments(len(all_labels), width, 0, device=like.device, dtype=like.dtype)
    for wide, narrow in zip(joined[:3], moments[:3], strict=True):
        wide[rows] = narrow[used]
    return joined
