"""Paired differences at a glance: a dot for the mean, a line for the interval, a tick for every seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS, label, new_figure, tidy
from etfhead.experiment.report.score import score_of_summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_differences", "draw_study_differences"]

_Pair = Mapping[str, Any]
_Row = tuple[str, _Pair, _Pair]  # arm, difference at the best epoch, at the last epoch


def draw_differences(summary: Mapping[str, Any]) -> Figure | None:
    """One row per contender with the best-epoch and the last-epoch difference; ``None`` without any."""
    rows = _rows(summary)
    if not rows:
        return None
    figure = new_figure(9.6, 1.5 + 0.52 * len(rows))
    axis = figure.subplots()
    _draw(axis, rows)
    axis.set_yticks(range(len(rows)), [label(arm, 28) for arm, *_ in rows])
    axis.set_xlabel(_x_label(summary))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw_study_differences(summary: Mapping[str, Any]) -> Figure | None:
    """The same for each setting of a study, one panel a setting; ``None`` without any."""
    panels = [
        (setting, one["summary"], {row[0]: row for row in rows})
        for setting, one in summary["settings"].items()
        if one["summary"] is not None and (rows := _rows(one["summary"]))
    ]
    arms = [arm for arm in summary["arms"] if any(arm in found for *_, found in panels)]
    if not arms:
        return None
    columns = min(len(panels), 4)
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(max(6.4, 2.2 + 2.6 * columns), lines * (0.9 + 0.32 * len(arms)) + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for at, axis in enumerate(grid.flat):
        axis.set_visible(at < len(panels))
    for axis, (setting, _, found) in zip(grid.flat, panels, strict=False):  # the last row may be short
        _draw(axis, [found.get(arm) for arm in arms])
        axis.set_title(label(setting, 30), loc="left", fontsize=10)
        axis.set_yticks(range(len(arms)), [label(arm, 28) for arm in arms])
    figure.supxlabel(_x_label(panels[0][1]), fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _rows(summary: Mapping[str, Any]) -> list[_Row]:
    score = score_of_summary(summary)
    pairs = [
        (arm, entry["differences"][score.primary], entry["differences"][score.last])
        for arm, entry in summary["arms"].items()
        if arm != summary["baseline"]
    ]
    return [(arm, best, last) for arm, best, last in pairs if best is not None and last is not None]


def _x_label(summary: Mapping[str, Any]) -> str:
    name, baseline = score_of_summary(summary).name, label(summary["baseline"], 40)
    return f"test {name} minus that of {baseline}, percentage points"


def _draw(axis: Axes, rows: Sequence[_Row | None]) -> None:
    """One line per row, top to bottom; ``None`` leaves its line empty."""
    limits = _limits([pair for row in rows if row is not None for pair in row[1:]])
    for index, name in ((1, "best validation epoch (primary)"), (2, "last epoch")):
        primary = index == 1
        colour, offset = (COLOURS[0], -0.17) if primary else (COLOURS[1], 0.17)
        for at, row in enumerate(rows):
            if row is None:
                continue
            pair: _Pair = row[index]  # type: ignore[assignment]
            y = at + offset
            seeds = list(pair["values"].values())
            axis.plot(seeds, [y] * len(seeds), "|", color=colour, markersize=9, alpha=0.7)
            if pair["low"] is not None:
                _interval(axis, pair, y, limits, colour)
            named = name not in axis.get_legend_handles_labels()[1]
            axis.plot(
                [pair["mean"]],
                [y],
                linestyle="none",
                marker="o" if primary else "D",
                markersize=7 if primary else 5.5,
                color=colour,
                markerfacecolor=colour if primary else "white",
                zorder=4,
                label=name if named else "",
            )
    axis.axvline(0, color=BASELINE_COLOUR, linewidth=1.2, zorder=1)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(*limits)
    tidy(axis)
    axis.grid(visible=False, axis="y")


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
