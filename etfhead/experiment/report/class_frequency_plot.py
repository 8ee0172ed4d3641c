"""The picture of accuracy by class frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.arm_panels import arm_panels, explain_colours
from etfhead.experiment.report.curves import MAX_SHARED, arm_styles
from etfhead.experiment.report.plot_style import label, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_class_frequency", "rank_curve"]

_MOST_POINTS = 20

Points = list[tuple[float, float, float, float]]  # rank from 1, mean, lowest seed, highest seed


def rank_curve(by_seed: Mapping[str, Sequence[float | None]]) -> Points:
    """Accuracy by rank over seeds; more than 20 classes become 20 groups of neighbours.

    >>> rank_curve({"0": [90.0, 50.0], "1": [80.0, 70.0]})
    [(1.0, 85.0, 80.0, 90.0), (2.0, 60.0, 50.0, 70.0)]
    """
    K = min((len(values) for values in by_seed.values()), default=0)
    points: Points = []
    bins = min(K, _MOST_POINTS)
    for at in range(bins):
        ranks = range(at * K // bins, (at + 1) * K // bins)
        means = []
        for values in by_seed.values():
            known = [value for rank in ranks if (value := values[rank]) is not None]
            if known:
                means.append(sum(known) / len(known))
        if means:
            centre = 1 + (ranks[0] + ranks[-1]) / 2
            points.append((centre, sum(means) / len(means), min(means), max(means)))
    return points


def draw_class_frequency(summary: Mapping[str, Any]) -> Figure | None:
    """One frame of up to six arms, else a panel for each with the baseline; None without a long tail."""
    baseline = summary["baseline"]
    found = {arm: rank_curve(entry.get("top1_by_rank") or {}) for arm, entry in summary["arms"].items()}
    curves = {arm: points for arm, points in found.items() if points}
    if not curves:
        return None
    names = sorted(curves, key=lambda arm: arm != baseline)
    if len(names) <= MAX_SHARED:
        figure = new_figure(7.2, 4.4)
        axis = figure.subplots()
        for arm, (colour, dash) in arm_styles(names, baseline).items():
            _draw(axis, arm, curves[arm], colour, dash)
        tidy(axis)
        axis.legend(frameon=False, fontsize=9)
    else:
        figure, _ = arm_panels(
            names, baseline, lambda axis, arm, colour, dash: _draw(axis, arm, curves[arm], colour, dash)
        )
        explain_colours(figure, names, baseline)
    figure.supxlabel("class by training images, most frequent first", fontsize=10)
    figure.supylabel("test accuracy (%)", fontsize=10)
    return figure


def _draw(axis: Axes, arm: str, points: Points, colour: str, dash: str) -> None:
    ranks, mean, low, high = zip(*points, strict=True)
    axis.plot(ranks, mean, color=colour, linestyle=dash, linewidth=1.8, label=label(arm, 28))
    axis.fill_between(ranks, low, high, color=colour, alpha=0.16, linewidth=0)
