"""Paired differences at a glance: a dot for the mean, a line for the interval, a tick for every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS, label, new_figure, tidy
from etfhead.experiment.report.score import score_of_summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_differences"]

_Pair = Mapping[str, Any]


def draw_differences(summary: Mapping[str, Any]) -> Figure | None:
    """One row per contender with the best-epoch and the last-epoch difference; ``None`` without any."""
    score = score_of_summary(summary)
    rows = [
        (arm, entry["differences"][score.primary], entry["differences"][score.last])
        for arm, entry in summary["arms"].items()
        if arm != summary["baseline"]
    ]
    rows = [(arm, best, last) for arm, best, last in rows if best is not None and last is not None]
    if not rows:
        return None
    figure = new_figure(9.6, 1.5 + 0.52 * len(rows))
    axis = figure.subplots()
    limits = _limits([pair for _, *both in rows for pair in both])
    for index, name in ((1, "best validation epoch (primary)"), (2, "last epoch")):
        primary = index == 1
        colour, offset = (COLOURS[0], -0.17) if primary else (COLOURS[1], 0.17)
        for at, row in enumerate(rows):
            pair, y = row[index], at + offset
            seeds = list(pair["values"].values())
            axis.plot(seeds, [y] * len(seeds), "|", color=colour, markersize=9, alpha=0.7)
            if pair["low"] is not None:
                _interval(axis, pair, y, limits, colour)
            axis.plot(
                [pair["mean"]],
                [y],
                linestyle="none",
                marker="o" if primary else "D",
                markersize=7 if primary else 5.5,
                color=colour,
                markerfacecolor=colour if primary else "white",
                zorder=4,
                label="" if at else name,
            )
    axis.axvline(0, color=BASELINE_COLOUR, linewidth=1.2, zorder=1)
    axis.set_yticks(range(len(rows)), [label(arm, 28) for arm, *_ in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(*limits)
    axis.set_xlabel(f"test {score.name} minus that of {label(summary['baseline'], 40)}, percentage points")
    tidy(axis)
    axis.grid(visible=False, axis="y")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _limits(pairs: Sequence[_Pair]) -> tuple[float, float]:
    """Zero and all seeds fit, and intervals up to three times as far from zero as the farthest seed.

    Three seeds can give an interval many times wider than their differences; on an axis that held it, the
    other rows would shrink to dots. Such an interval ends in an arrow instead.
    """
    seeds = [value for pair in pairs for value in pair["values"].values()]
    bounds = [bound for pair in pairs for bound in (pair["low"], pair["high"]) if bound is not None]
    far = 3 * max(abs(value) for value in seeds)
    low = min(0.0, *seeds, *(max(bound, -far) for bound in bounds))
    high = max(0.0, *seeds, *(min(bound, far) for bound in bounds))
    margin = 0.08 * (high - low) or 0.1
    return low - margin, high + margin


def _interval(axis: Axes, pair: _Pair, y: float, limits: tuple[float, float], colour: str) -> None:
    left, right = limits
    axis.hlines(y, max(pair["low"], left), min(pair["high"], right), color=colour, linewidth=2)
    inset = 0.005 * (right - left)
    for leaves, edge, arrow in (
        (pair["low"] < left, left + inset, "<"),
        (pair["high"] > right, right - inset, ">"),
    ):
        if leaves:
            axis.plot([edge], [y], marker=arrow, markersize=6, color=colour, clip_on=False)
