"""Memorization against epoch beside dilation against memorization; of many arms the latter, a panel each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.arm_panels import arm_panels, explain_colours
from etfhead.experiment.report.curves import (
    MAX_SHARED,
    Curve,
    arm_styles,
    draw_curve,
    seed_curve,
    whole_epochs,
)
from etfhead.experiment.report.plot_style import new_figure, tidy
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
    return _panels(pairs, baseline)


def _shared(pairs: Mapping[str, _Pair], styles: Mapping[str, tuple[str, str]]) -> Figure:
    figure = new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    for arm, pair in pairs.items():
        draw_curve(left, pair[0], *styles[arm], marker="o")
        _draw_way(right, pair, *styles[arm])
    tidy(left)
    tidy(right)
    left.set_ylim(bottom=0)
    whole_epochs([left])
    _scale(right, list(pairs.values()))
    left.set_xlabel("epoch")
    left.set_ylabel(_X)
    right.set_xlabel(_X)
    right.set_ylabel(_Y)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 4), frameon=False)
    return figure


def _panels(pairs: Mapping[str, _Pair], baseline: str) -> Figure:
    """One panel per contender with its way, the baseline's repeated in each."""
    figure, panels = arm_panels(
        list(pairs), baseline, lambda axis, arm, colour, dash: _draw_way(axis, pairs[arm], colour, dash)
    )
    _scale(panels[0], list(pairs.values()))
    figure.supxlabel(_X, fontsize=10)
    figure.supylabel(_Y, fontsize=10)
    explain_colours(figure, list(pairs), baseline)
    return figure


def _draw_way(axis: Axes, pair: _Pair, colour: str, dash: str) -> None:
    x, y = _way(pair)
    axis.plot(x, y, color=colour, linestyle=dash, linewidth=1.2, marker="o", markersize=2.5)
    axis.plot(x[-1:], y[-1:], color=colour, linestyle="none", marker="o", markersize=8)


def _way(pair: _Pair) -> tuple[list[float], list[float]]:
    """Both figures at the epochs that have both."""
    x, y = (dict(zip(curve.epochs, curve.mean, strict=True)) for curve in pair)
    epochs = [epoch for epoch in x if epoch in y]
    return [x[epoch] for epoch in epochs], [y[epoch] for epoch in epochs]


def _scale(axis: Axes, pairs: Sequence[_Pair]) -> None:
    if all(value > 0 for pair in pairs for value in _way(pair)[1]):
        axis.set_yscale("log")
