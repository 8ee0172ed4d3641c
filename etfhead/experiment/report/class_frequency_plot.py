"""The picture of accuracy by class frequency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.curves import MAX_SHARED, arm_styles
from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS, label, new_figure, tidy

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
        others = [arm for arm in names if arm != baseline]
        columns = 3 if len(others) <= 9 else 4
        rows = math.ceil(len(others) / columns)
        figure = new_figure(2.7 * columns, 2.1 * rows + 0.7)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for at, axis in enumerate(grid.flat):
            axis.set_visible(at < len(others))
            axis.tick_params(labelbottom=at + columns >= len(others))
        for axis, arm in zip(grid.flat, others, strict=False):
            if baseline in curves:
                _draw(axis, baseline, curves[baseline], BASELINE_COLOUR, "--")
            _draw(axis, arm, curves[arm], COLOURS[0], "-")
            tidy(axis)
            axis.set_title(label(arm, 26), loc="left", fontsize=10, color=COLOURS[0])
        figure.suptitle(f"black, dashed: {label(baseline, 30)} (baseline)", fontsize=10)
    figure.supxlabel("class by training images, most frequent first", fontsize=10)
    figure.supylabel("test accuracy (%)", fontsize=10)
    return figure


def _draw(axis: Axes, arm: str, points: Points, colour: str, dash: str) -> None:
    ranks, mean, low, high = zip(*points, strict=True)
    axis.plot(ranks, mean, color=colour, linestyle=dash, linewidth=1.8, label=label(arm, 28))
    axis.fill_between(ranks, low, high, color=colour, alpha=0.16, linewidth=0)
