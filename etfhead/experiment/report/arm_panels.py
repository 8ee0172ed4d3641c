"""A picture of many arms: a panel for each contender, the baseline repeated in it, all on the same scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS, label, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["arm_panels", "explain_colours"]


def arm_panels(
    arms: Sequence[str], baseline: str, draw: Callable[[Axes, str, str, str], None]
) -> tuple[Figure, list[Axes]]:
    """Draw every arm but the baseline in a panel of its own.

    Args:
        arms: Those with something to show; the baseline may be none of them.
        baseline: Name of the baseline.
        draw: Given axis, arm, colour and dash.

    Returns:
        tuple[Figure, list[Axes]]: The figure and its panels in the order of the arms; limits and scales of
        one are those of all.
    """
    contenders = [arm for arm in arms if arm != baseline]
    columns = 3 if len(contenders) <= 9 else 4
    rows = math.ceil(len(contenders) / columns)
    figure = new_figure(2.7 * columns, 2.1 * rows + 0.7)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for at, axis in enumerate(panels):  # the last row may be short
        axis.set_visible(at < len(contenders))
        axis.tick_params(labelbottom=at + columns >= len(contenders))
    for axis, arm in zip(panels, contenders, strict=False):
        if baseline in arms:
            draw(axis, baseline, BASELINE_COLOUR, "--")
        draw(axis, arm, COLOURS[0], "-")
        tidy(axis)
        axis.set_title(label(arm, 26), loc="left", fontsize=10, color=COLOURS[0])
    return figure, panels[: len(contenders)]


def explain_colours(
    figure: Figure, arms: Sequence[str], baseline: str, *more: str, place: str = "panel"
) -> None:
    """Say above a figure which line is whose.

    Args:
        figure: Of :func:`arm_panels`, or a like one.
        arms: Those that are shown.
        baseline: Name of the baseline.
        *more: What else there is to say.
        place: Above what the arms' names stand.
    """
    words = [f"black, dashed: {label(baseline, 30)} (baseline)"] if baseline in arms else []
    figure.suptitle(";  ".join([*words, f"blue: the arm named above the {place}", *more]), fontsize=10)
