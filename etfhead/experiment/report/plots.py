"""The pictures of a run as PNG files, its learning curves first: means over seeds with bands.

Up to six arms share one pair of axes. More get one panel each with the baseline in every panel: a dozen
lines with a dozen bands in one frame cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.arm_panels import arm_panels, explain_colours
from etfhead.experiment.report.class_frequency_plot import draw_class_frequency
from etfhead.experiment.report.collapse_plot import draw_collapse
from etfhead.experiment.report.curves import (
    MAX_SHARED,
    Curve,
    arm_styles,
    draw_curve,
    seed_curve,
    whole_epochs,
)
from etfhead.experiment.report.dotplot import draw_differences
from etfhead.experiment.report.features_plot import draw_features
from etfhead.experiment.report.memorization_plot import draw_memorization
from etfhead.experiment.report.plot_style import new_figure, png, tidy
from etfhead.experiment.report.records import RunRecords
from etfhead.experiment.report.regression_collapse import NRC_PANELS
from etfhead.experiment.report.reliability import draw_reliability
from etfhead.experiment.report.score import Score, score_of_summary
from etfhead.experiment.report.tail_geometry import TAIL_PANELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "figures"]

_LOSS = "val_loss"


def draw(records: RunRecords, summary: Mapping[str, Any]) -> dict[str, bytes]:
    """Draw every picture the data allow, as PNG bytes by file name."""
    return {name: png(figure) for name, figure in figures(records, summary).items()}


def figures(records: RunRecords, summary: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures behind the pictures.

    Args:
        records: The run folder.
        summary: Its summary.

    Returns:
        Figures by file name: some or all of ``accuracy_epoch.png``, ``accuracy_time.png`` (of label sets
        ``score_epoch.png`` and ``score_time.png``), ``loss_epoch.png``, ``collapse.png``,
        ``differences.png``, ``reliability.png`` and, on noisy labels, ``memorization.png`` and
        ``features.png``.
    """
    drawn = {}
    score = score_of_summary(summary)
    for name, key, timed in _pictures(score):
        curves = [curve for arm in records.runs if (curve := seed_curve(records, arm, key)) is not None]
        curves.sort(key=lambda curve: curve.arm != summary["baseline"])
        if curves:
            target = summary["target"][score.val] if timed else None
            how = _shared if len(curves) <= MAX_SHARED else _panels
            drawn[name] = how(curves, summary["baseline"], _y_label(score, key), timed, target)
    others = {
        "collapse.png": draw_collapse(records, summary),
        "regression_collapse.png": draw_collapse(records, summary, NRC_PANELS),
        "differences.png": draw_differences(summary),
    }
    others["memorization.png"] = draw_memorization(records, summary)
    others["features.png"] = draw_features(records, summary)
    others["class_frequency.png"] = draw_class_frequency(summary)
    others["reliability.png"] = draw_reliability(summary)
    others["tail_geometry.png"] = draw_collapse(records, summary, TAIL_PANELS)
    return drawn | {name: figure for name, figure in others.items() if figure is not None}


def _pictures(score: Score) -> list[tuple[str, str, bool]]:
    stem = "score" if score.key != "top1" else "accuracy"
    return [
        (f"{stem}_epoch.png", score.val, False),
        (f"{stem}_time.png", score.val, True),
        ("loss_epoch.png", _LOSS, False),
    ]


def _y_label(score: Score, key: str) -> str:
    return "validation loss" if key == _LOSS else f"validation {score.name} (%)"


def _shared(curves: list[Curve], baseline: str, y_label: str, timed: bool, target: float | None) -> Figure:
    """All arms in one frame; beside it, against epochs, the last third enlarged."""
    close_up = not timed and max(len(curve.epochs) for curve in curves) >= 6
    figure = new_figure(9.6, 4.6)
    axes = figure.subplots(1, 2 if close_up else 1, squeeze=False, width_ratios=(3, 2) if close_up else None)[
        0
    ]
    styles = arm_styles([curve.arm for curve in curves], baseline)
    for axis in axes:
        for curve in curves:
            draw_curve(axis, curve, *styles[curve.arm], timed=timed)
        tidy(axis)
        axis.set_xlabel(_x_label(timed))
    axes[0].set_ylabel(y_label)
    if close_up:
        axes[0].set_title("all epochs", loc="left", fontsize=10)
        axes[1].set_title("the last third, enlarged", loc="left", fontsize=10)
        _enlarge(axes[1], curves)
    else:
        axes[0].set_ylim(*_limits(curves, _after_start))
    if target is not None:
        axes[0].axhline(target, color="#666666", linewidth=1, linestyle=":", label=f"target {target:.2f} %")
    if not timed:
        whole_epochs(axes)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 4), frameon=False)
    return figure


def _panels(curves: list[Curve], baseline: str, y_label: str, timed: bool, target: float | None) -> Figure:
    """One panel per contender, the baseline repeated in each, all on the same scales."""
    by_arm = {curve.arm: curve for curve in curves}

    def draw(axis: Axes, arm: str, colour: str, dash: str) -> None:
        draw_curve(axis, by_arm[arm], colour, dash, timed=timed)

    figure, panels = arm_panels(list(by_arm), baseline, draw)
    more = []
    if target is not None:
        more.append(f"dotted: target {target:.2f} %")
        for axis in panels:
            axis.axhline(target, color="#666666", linewidth=1, linestyle=":")
    panels[0].set_ylim(*_limits(curves, _after_start))
    if not timed:
        whole_epochs([panels[0]])
    figure.supxlabel(_x_label(timed), fontsize=10)
    figure.supylabel(y_label, fontsize=10)
    explain_colours(figure, list(by_arm), baseline, *more)
    return figure


def _enlarge(axis: Axes, curves: list[Curve]) -> None:
    last = max(curve.epochs[-1] for curve in curves)
    start = last - max(2, last // 3)
    axis.set_xlim(start, last + 0.03 * (last - start))
    axis.set_ylim(*_limits(curves, lambda curve, at: curve.epochs[at] >= start))


def _limits(curves: list[Curve], counts: Callable[[Curve, int], bool]) -> tuple[float, float]:
    """Limits that hold every point that counts, bands included, with a small margin."""
    points = [(curve, at) for curve in curves for at in range(len(curve.epochs)) if counts(curve, at)]
    bottom = min(curve.low[at] for curve, at in points)
    top = max(curve.high[at] for curve, at in points)
    margin = 0.06 * (top - bottom) or 0.5
    return bottom - margin, top + margin


def _after_start(curve: Curve, at: int) -> bool:
    # The first third of training spans most of the range; without it the axis has room for differences.
    return at >= len(curve.epochs) // 3


def _x_label(timed: bool) -> str:
    return "training time (s), without validation" if timed else "epoch"
