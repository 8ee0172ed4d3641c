"""Validation accuracy, or another metric, epoch by epoch, paired with the baseline: who is ahead when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from etfhead.experiment.report.records import SeedRecord
from etfhead.experiment.report.stats import paired_difference, spread_by_seed

__all__ = ["accuracy_by_epoch", "shown_epochs"]

_Values = dict[int, dict[int, float]]  # by epoch, then seed


def accuracy_by_epoch(
    runs: Mapping[str, Mapping[int, SeedRecord]], baseline: str, key: str = "val_top1"
) -> dict[str, list[dict[str, Any]]]:
    """Validation accuracy of every arm after each epoch, over its finished seeds.

    Args:
        runs: Records by arm and seed.
        baseline: The arm that the others are compared with.
        key: The metric, as the rows of an epoch call it.

    Returns:
        dict: For each arm one entry an epoch, ascending: ``epoch`` (0 = before the first step, counted from
        1 after it), ``n``, ``mean``, ``std``, ``values`` by seed in percent, and ``difference``: the paired
        difference to the baseline at the same epoch with its 95 % interval in points (None for the baseline
        and where no seed is shared).
    """
    values = {arm: _values(seeds, key) for arm, seeds in runs.items()}
    return {
        arm: [
            _entry(epoch, own, None if arm == baseline else values[baseline].get(epoch))
            for epoch, own in sorted(epochs.items())
        ]
        for arm, epochs in values.items()
    }


def shown_epochs(last: int) -> list[int]:
    """The epochs of a compact table: before training, the first three, the middle and the last.

    >>> shown_epochs(8), shown_epochs(2)
    ([0, 1, 2, 3, 4, 8], [0, 1, 2])
    """
    return sorted({0, *(epoch for epoch in (1, 2, 3, (last + 1) // 2) if epoch <= last), last})


def _values(seeds: Mapping[int, SeedRecord], key: str) -> _Values:
    found: _Values = {}
    for seed, run in seeds.items():
        if run.finished:
            for epoch, value in run.measured(key, initial=True).items():
                found.setdefault(epoch, {})[seed] = value
    return found


def _entry(epoch: int, own: dict[int, float], theirs: dict[int, float] | None) -> dict[str, Any]:
    pair = None if theirs is None else paired_difference(own, theirs)
    return {
        "epoch": epoch,
        **(spread_by_seed(own) or {}),
        "difference": None if pair is None else asdict(pair),
    }
