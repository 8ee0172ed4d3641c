"""Curves over epochs: mean over finished seeds, band from the smallest to the largest, drawn as one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS, label
from etfhead.experiment.report.records import RunRecords

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MAX_SHARED", "Curve", "arm_styles", "draw_curve", "seed_curve", "whole_epochs"]

MAX_SHARED = 6


@dataclass(frozen=True)
class Curve:
    """One arm at the epochs that all its finished seeds have."""

    arm: str
    epochs: list[int]
    seconds: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    seeds: int

    def scaled(self, factor: float) -> Curve:
        """The same curve in another unit."""
        mean, low, high = ([factor * value for value in row] for row in (self.mean, self.low, self.high))
        return replace(self, mean=mean, low=low, high=high)

    def cut(self, floor: float) -> Curve:
        """The same curve with zero for what is below a floor."""
        rows = (self.mean, self.low, self.high)
        mean, low, high = ([value if value >= floor else 0.0 for value in row] for row in rows)
        return replace(self, mean=mean, low=low, high=high)


def seed_curve(records: RunRecords, arm: str, key: str, *, initial: bool = False) -> Curve | None:
    """The curve of a figure of ``metrics.jsonl``, or ``None`` where no epoch is common to the seeds.

    Args:
        records: The run folder.
        arm: Name of the arm.
        key: The figure. Seeds without it at any epoch are left out.
        initial: Start at the untrained model, epoch 0, where it is known.
    """
    tables = [
        (table, run.measured("train_time"))
        for run in records.finished(arm).values()
        if (table := run.measured(key, initial=initial))
    ]
    epochs = sorted(set.intersection(*(set(table) for table, _ in tables))) if tables else []
    if not epochs:
        return None
    values = [[table[epoch] for table, _ in tables] for epoch in epochs]
    return Curve(
        arm=arm,
        epochs=epochs,
        seconds=[sum(times.get(epoch, 0.0) for _, times in tables) / len(tables) for epoch in epochs],
        mean=[sum(row) / len(row) for row in values],
        low=[min(row) for row in values],
        high=[max(row) for row in values],
        seeds=len(tables),
    )


def arm_styles(arms: Sequence[str], baseline: str) -> dict[str, tuple[str, str]]:
    """Colour and dash of up to :data:`MAX_SHARED` arms in one frame."""
    colours = iter(COLOURS)
    return {arm: (BASELINE_COLOUR, "--") if arm == baseline else (next(colours), "-") for arm in arms}


def draw_curve(
    axis: Axes, curve: Curve, colour: str, dash: str, *, timed: bool = False, marker: str = ""
) -> None:
    """One line with its band, against epochs or seconds; a single point is always marked."""
    x = curve.seconds if timed else curve.epochs
    axis.plot(
        x,
        curve.mean,
        color=colour,
        linestyle=dash,
        linewidth=1.8,
        marker=marker if len(x) > 1 else "o",
        markersize=3 if len(x) > 1 else None,
        label=label(curve.arm, 28),
    )
    if curve.seeds > 1:
        axis.fill_between(x, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)


def whole_epochs(axes: Sequence[Axes], ticks: int = 8) -> None:
    """Tick labels at whole epochs only, about ``ticks`` of them at most."""
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True, min_n_ticks=1))
