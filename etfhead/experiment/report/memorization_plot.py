"""Memorization against epoch beside dilation against memorization; a row for each of many arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.curves import (
    MAX_SHARED,
    Curve,
    arm_styles,
    draw_curve,
    seed_curve,
    whole_epochs,
)
from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS, label, new_figure, tidy
from etfhead.experiment.report.records import RunRecords

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_memorization"]

_MEMORIZATION, _DILATION = "md_memorization_relative", "md_dilation"
_X, _Y = "relative memorization", "dilation (NC1, validation)"
_Pair = tuple[Curve, Curve]


def draw_memorization(records: RunRecords, summary: Mapping[str, Any]) -> Figure | None:
    """The picture of the arms that have both figures; ``None`` where none has, as without wrong labels.

    Args:
        records: The run folder.
        summary: Its summary.
    """
    baseline = summary["baseline"]
    finished = sorted((arm for arm in records.runs if records.finished(arm)), key=lambda arm: arm != baseline)
    pairs: dict[str, _Pair] = {}
    for arm in finished:
        # Not from the untrained network on: its classes lie at one place, and its figures are far off.
        both = [seed_curve(records, arm, key) for key in (_MEMORIZATION, _DILATION)]
        if both[0] is not None and both[1] is not None and set(both[0].epochs) & set(both[1].epochs):
            pairs[arm] = (both[0], both[1])
    if not pairs:
        return None
    if len(pairs) <= MAX_SHARED:
        return _shared(pairs, arm_styles(finished if len(finished) <= MAX_SHARED else list(pairs), baseline))
    return _rows(pairs, baseline)


def _shared(pairs: Mapping[str, _Pair], styles: Mapping[str, tuple[str, str]]) -> Figure:
    figure = new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    for arm, pair in pairs.items():
        _draw(left, right, pair, *styles[arm])
    _dress(left, right, list(pairs.values()))
    left.set_xlabel("epoch")
    left.set_ylabel(_X)
    right.set_xlabel(_X)
    right.set_ylabel(_Y)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 4), frameon=False)
    return figure


def _rows(pairs: Mapping[str, _Pair], baseline: str) -> Figure:
    """One row per contender, the baseline repeated in each panel."""
    contenders = [arm for arm in pairs if arm != baseline]
    figure = new_figure(7.2, 1.7 * len(contenders) + 0.8)
    grid = figure.subplots(len(contenders), 2, squeeze=False, sharex="col", sharey="col")
    for (left, right), arm in zip(grid, contenders, strict=True):
        for name, colour, dash in ((baseline, BASELINE_COLOUR, "--"), (arm, COLOURS[0], "-")):
            if name in pairs:
                _draw(left, right, pairs[name], colour, dash)
        _dress(left, right, list(pairs.values()))
        left.set_title(label(arm, 40), loc="left", fontsize=10, color=COLOURS[0])
        left.set_ylabel(_X, fontsize=8)
        right.set_ylabel(_Y, fontsize=8)
    grid[-1, 0].set_xlabel("epoch")
    grid[-1, 1].set_xlabel(_X)
    legend = [f"black, dashed: {label(baseline, 30)} (baseline)"] if baseline in pairs else []
    figure.suptitle(";  ".join([*legend, "blue: the arm named above the row"]), fontsize=10)
    return figure


def _draw(left: Axes, right: Axes, pair: _Pair, colour: str, dash: str) -> None:
    draw_curve(left, pair[0], colour, dash, marker="o")
    x, y = _way(pair)
    right.plot(x, y, color=colour, linestyle=dash, linewidth=1.2, marker="o", markersize=2.5)
    right.plot(x[-1:], y[-1:], color=colour, linestyle="none", marker="o", markersize=8)


def _way(pair: _Pair) -> tuple[list[float], list[float]]:
    """Both figures at the epochs that have both."""
    x, y = (dict(zip(curve.epochs, curve.mean, strict=True)) for curve in pair)
    epochs = [epoch for epoch in x if epoch in y]
    return [x[epoch] for epoch in epochs], [y[epoch] for epoch in epochs]


def _dress(left: Axes, right: Axes, pairs: Sequence[_Pair]) -> None:
    tidy(left)
    tidy(right)
    left.set_ylim(bottom=0)
    if all(value > 0 for pair in pairs for value in _way(pair)[1]):
        right.set_yscale("log")
    whole_epochs([left])
