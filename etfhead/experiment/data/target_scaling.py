"""Targets in units of the training split, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from etfhead.errors import DataError
from etfhead.frames.target_moments import TargetStatistics

__all__ = ["TargetScaling", "column_statistics", "fit_scaling"]

_CONSTANT = 1e-12  # standard deviation of a constant target, relative to its largest number


@dataclass(frozen=True, eq=False)
class TargetScaling:
    """How targets are standardised, and what a fixed head is made from; of the training split alone.

    Args:
        mean: (n,) in the targets' own units.
        std: (n,) in the targets' own units; positive.
        statistics: Mean and covariance of the standardised targets: zero, and the correlations.
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    statistics: TargetStatistics

    def standardised(self, targets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(targets - mean) / std."""
        scaled: npt.NDArray[np.float64] = (targets - self.mean) / self.std
        return scaled


def fit_scaling(targets: npt.NDArray[np.float64], names: Sequence[str]) -> TargetScaling:
    """Mean, standard deviation and correlations of the training targets.

    Args:
        targets: (M, n).
        names: n names, for messages.

    Raises:
        DataError: If a target is constant, or its numbers are so large that they have no variance.

    Example:
        >>> scaling = fit_scaling(np.array([[0.0, 5.0], [4.0, 9.0], [8.0, 7.0]]), ["a", "b"])
        >>> scaling.mean.tolist(), scaling.statistics.covariance.diagonal().tolist()
        ([4.0, 7.0], [1.0, 1.0])
    """
    mean, std = _moments(targets)
    _refuse_overflow("target", std, names)
    constant = np.flatnonzero(std <= _CONSTANT * np.abs(targets).max(0))
    if len(constant):
        listed = ", ".join(repr(names[k]) for k in constant[:5]) + (", ..." if len(constant) > 5 else "")
        raise DataError(
            f"{len(constant)} of {len(names)} targets are the same number in all {len(targets)} training "
            f"samples: {listed}; leave them out"
        )
    scaled = (targets - mean) / std
    # Division by the exact norm: a diagonal of one to the last digit.
    correlations = torch.from_numpy(np.atleast_2d(np.corrcoef(scaled, rowvar=False)))
    return TargetScaling(
        mean, std, TargetStatistics(torch.zeros(len(names), dtype=torch.float64), correlations)
    )


def column_statistics(
    table: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each column; 1 for a constant one, which standardising makes zero.

    Raises:
        DataError: If numbers are so large that they have no variance.
    """
    mean, std = _moments(table)
    _refuse_overflow("column", std, range(len(std)))
    return mean, np.where(std <= _CONSTANT * np.abs(table).max(0), 1.0, std)


def _moments(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    with np.errstate(over="ignore", invalid="ignore"):  # named below, not warned of
        return values.mean(0), values.std(0)


def _refuse_overflow(what: str, std: npt.NDArray[np.float64], names: Sequence[Any]) -> None:
    for k in np.flatnonzero(~np.isfinite(std)).tolist():
        raise DataError(
            f"{what} {names[k]!r}: its numbers are so large that they have no variance in float64; give them "
            "in another unit"
        )
