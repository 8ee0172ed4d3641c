"""Neural collapse against epochs: a panel for each figure, all arms in it, or a row for each of many arms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.arm_panels import explain_colours
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

__all__ = ["Panel", "draw_collapse"]

_MAX_DECADES = 5  # labelled ones


@dataclass(frozen=True)
class Panel:
    """What one panel shows, and its curves by arm."""

    key: str
    name: str
    words: str
    log: bool = False
    factor: float = 1.0
    floor: float = 0.0  # what is below is rounding, and drawn as zero


_PANELS = (
    Panel("collapse_nc1", "NC1", "spread within classes", log=True),
    Panel("collapse_cdnv", "CDNV", "spread over distance", log=True),
    Panel("collapse_nc2_equinorm", "NC2 equinorm", "unequal norms"),
    Panel("collapse_nc2_equiangular", "NC2 equiangular", "unequal angles"),
    Panel("collapse_nc3", "NC3", "vectors off class means"),
    Panel("collapse_nc4", "NC4 (%)", "nearest mean disagrees", factor=100.0),
)

_Curves = Mapping[str, Curve]
_Shown = Sequence[tuple[Panel, _Curves]]


def draw_collapse(
    records: RunRecords, summary: Mapping[str, Any], panels: Sequence[Panel] = _PANELS
) -> Figure | None:
    """The figures of collapse that any finished training has; ``None`` without one.

    Args:
        records: The run folder.
        summary: Its summary.
        panels: What is shown of it.
    """
    baseline = summary["baseline"]
    finished = [arm for arm in records.runs if records.finished(arm)]
    finished.sort(key=lambda arm: arm != baseline)
    shown = [(panel, curves) for panel in panels if (curves := _curves(records, finished, panel))]
    if not shown:
        return None
    arms = [arm for arm in finished if any(arm in curves for _, curves in shown)]
    if len(arms) > MAX_SHARED:
        return _rows(shown, arms, baseline)
    # Colours by all finished arms, as in the other pictures, whether or not this one shows them.
    return _shared(shown, arm_styles(finished if len(finished) <= MAX_SHARED else arms, baseline))


def _curves(records: RunRecords, arms: Sequence[str], panel: Panel) -> dict[str, Curve]:
    found = {arm: seed_curve(records, arm, panel.key, initial=True) for arm in arms}
    return {
        arm: curve.scaled(panel.factor).cut(panel.floor) for arm, curve in found.items() if curve is not None
    }


def _shared(shown: _Shown, styles: Mapping[str, tuple[str, str]]) -> Figure:
    """All arms in each panel."""
    columns = min(len(shown), 2 if len(shown) == 4 else 3)
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(max(6.4, 3.2 * columns), 2.5 * rows + 0.6)
    figure.get_layout_engine().set(h_pad=0.08)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(rows, columns, squeeze=False)
    entries: dict[str, Any] = {}
    for axis, (panel, curves) in zip(grid.flat, shown, strict=False):  # the last row may be short
        for arm, curve in curves.items():
            draw_curve(axis, curve, *styles[arm], marker="o")
        _dress(axis, panel, curves)
        axis.set_title(f"{panel.name}: {panel.words}", loc="left", fontsize=9.5)
        entries |= dict(zip(curves, axis.get_lines(), strict=True))
    for at, axis in enumerate(grid.flat):
        axis.set_visible(at < len(shown))
        if at + columns >= len(shown):
            axis.set_xlabel("epoch")
    _same_epochs(list(grid.flat)[: len(shown)], shown, ticks=8)
    handles = [entries[arm] for arm in styles if arm in entries]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4), frameon=False)
    return figure


def _rows(shown: _Shown, arms: Sequence[str], baseline: str) -> Figure:
    """One row per contender, one column per figure, the baseline repeated in each panel."""
    contenders = [arm for arm in arms if arm != baseline]
    figure = new_figure(max(5.0, 1.95 * len(shown)), 1.45 * len(contenders) + 1.1)
    # The heads of the columns stand in a row of their own: above the panels are the names of the arms.
    grid = figure.subplots(
        len(contenders) + 1, len(shown), squeeze=False, height_ratios=(0.28, *[1] * len(contenders))
    )
    for axes, (panel, curves) in zip(grid.T, shown, strict=True):
        axes[0].set_axis_off()
        axes[0].text(0.5, 0, f"{panel.name}\n{panel.words}", ha="center", va="bottom", fontsize=9)
        for axis, arm in zip(axes[1:], contenders, strict=True):
            for name, colour, dash in ((baseline, BASELINE_COLOUR, "--"), (arm, COLOURS[0], "-")):
                if name in curves:
                    draw_curve(axis, curves[name], colour, dash, marker="o")
            _dress(axis, panel, curves)
            axis.tick_params(labelsize=8, labelbottom=arm == contenders[-1])
    for axis, arm in zip(grid[1:, 0], contenders, strict=True):
        axis.set_title(label(arm, 60), loc="left", fontsize=10, color=COLOURS[0])
    _same_epochs(list(grid[1:].flat), shown, ticks=4)
    figure.supxlabel("epoch", fontsize=10)
    explain_colours(figure, arms, baseline, place="row")
    return figure


def _same_epochs(axes: Sequence[Axes], shown: _Shown, ticks: int) -> None:
    epochs = [epoch for _, curves in shown for curve in curves.values() for epoch in curve.epochs]
    first, last = min(epochs), max(epochs)
    margin = 0.04 * (last - first) or 0.5
    for axis in axes:
        axis.set_xlim(first - margin, last + margin)
    whole_epochs(axes, ticks)


def _dress(axis: Axes, panel: Panel, curves: _Curves) -> None:
    """Grid, scale and limits that hold all curves of the panel, whichever of them this axis shows."""
    tidy(axis)
    values = [value for curve in curves.values() for value in (*curve.low, *curve.high)]
    top = max(values)
    if panel.log and top > 0:
        _log_scale(axis, values)
    else:
        # A line at exactly zero should not hide in the axis.
        axis.set_ylim(-0.04 * top or -0.04, 1.06 * top or 1.0)


def _log_scale(axis: Axes, values: Sequence[float]) -> None:
    """Decades of the positive values; where collapse is exact, a linear piece below them down to zero."""
    from matplotlib.ticker import FixedLocator, LogFormatterSciNotation, NullLocator

    positive = [value for value in values if value > 0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    bottom, top = low - 0.05 * (high - low), high + 0.05 * (high - low)
    if math.floor(top) - math.ceil(bottom) < 1:  # fewer than two ticks: whole decades around the values
        bottom, top = float(math.floor(low)), float(max(math.ceil(high), math.floor(low) + 1))
    ticks = [10.0**decade for decade in range(math.ceil(bottom), math.floor(top) + 1)]
    ticks = ticks[:: math.ceil(len(ticks) / _MAX_DECADES)]
    if len(positive) < len(values):
        floor = 10.0 ** math.floor(low)
        axis.set_yscale("symlog", linthresh=floor, linscale=0.12 * (top - bottom))
        axis.set_ylim(-0.3 * floor, 10.0**top)
        ticks = [0.0, *ticks]
    else:
        axis.set_yscale("log")
        axis.set_ylim(10.0**bottom, 10.0**top)
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(LogFormatterSciNotation())
