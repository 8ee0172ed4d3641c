"""Figures against the settings of a study: a line an arm, heads told apart by line and marker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.equal_loss import loss_name
from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS, label, new_figure, tidy
from etfhead.experiment.report.study_axis import SettingAxis, setting_axis
from etfhead.experiment.report.study_figures import StudyFigure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MAX_TOGETHER", "draw_against_settings"]

MAX_TOGETHER = 9  # arms in one frame; more get a panel for each loss
_MAX_IN_PANEL = 6
_KINDS = {"learnable": ("--", "s"), "fixed": ("-", "o"), "following": ("-.", "^")}
_KIND_COLOURS = {"learnable": COLOURS[1], "fixed": COLOURS[0], "following": COLOURS[2]}

_Summary = Mapping[str, Any]


@dataclass(frozen=True)
class _Style:
    colour: str
    dash: str
    marker: str
    hollow: bool = False


@dataclass(frozen=True)
class _Group:
    """Arms that share a frame."""

    title: str
    styles: Mapping[str, _Style]


def draw_against_settings(summary: _Summary, figures: Sequence[StudyFigure]) -> Figure | None:
    """Panels of figures against settings; ``None`` where no arm has any of them.

    Up to :data:`MAX_TOGETHER` arms share each panel. More are drawn loss by loss, the baseline with each.

    Args:
        summary: Of a study.
        figures: One panel each, if the runs have it.
    """
    groups = _groups(summary)
    shown = [figure for figure in figures if _has(summary, figure)]
    if not shown:
        return None
    cells = [(group, figure) for group in groups for figure in shown]
    columns = len(shown) if len(groups) > 1 and len(shown) > 1 else _columns(len(cells))
    rows = math.ceil(len(cells) / columns)
    width, height = (9.6, 4.6) if len(cells) == 1 else (max(6.4, 3.4 * columns), 2.6 * rows + 0.8)
    if len(groups) > 1 and columns < 3:  # room for the names of the arms
        width, height = 4.8 * columns, 3.4 * rows + 1.0
    figure = new_figure(width, height)
    share: Any = "col" if columns == len(shown) else len(shown) == 1
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share)
    axis = setting_axis(summary)
    for at, frame in enumerate(grid.flat):
        frame.set_visible(at < len(cells))
    for at, (frame, (group, what)) in enumerate(
        zip(grid.flat, cells, strict=False)
    ):  # the last row may be short
        _draw(frame, summary, group, what, axis)
        _dress(frame, group, what, legend=len(groups) > 1 and at % len(shown) == 0)
    for row in grid if len(shown) == 1 else ():
        for frame in row[1:]:
            frame.set_ylabel("")
    _legend(figure, grid, summary, groups)
    return figure


def _draw(frame: Axes, summary: _Summary, group: _Group, what: StudyFigure, axis: SettingAxis) -> None:
    drawn = [arm for arm in group.styles if _points(summary, arm, what)]
    positive = True
    for at, arm in enumerate(drawn):
        style, points = group.styles[arm], _points(summary, arm, what)
        if what.against is None:
            x = [axis.beside(setting, at - (len(drawn) - 1) / 2) for setting in points]
        else:
            others = _points(summary, arm, StudyFigure(what.against[0], what.against[1]))
            points = {setting: point for setting, point in points.items() if setting in others}
            x = [others[setting]["mean"] for setting in points]
        means = [point["mean"] for point in points.values()]
        spreads = [point["std"] or 0.0 for point in points.values()]
        positive &= all(mean > 0 for mean in means)
        order = sorted(range(len(x)), key=x.__getitem__) if what.against is None else range(len(x))
        frame.errorbar(
            [x[i] for i in order],
            [means[i] for i in order],
            # On a logarithmic axis a bar may not reach below zero.
            yerr=[
                [min(spreads[i], 0.95 * means[i]) if what.log else spreads[i] for i in order],
                [spreads[i] for i in order],
            ],
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markerfacecolor="white" if style.hollow else style.colour,
            markersize=5,
            linewidth=1.5,
            elinewidth=0.9,
            capsize=2,
            label=label(arm, 28),
        )
    if what.log and positive:
        frame.set_yscale("log")
    if what.against is None:
        axis.dress(frame)


def _dress(frame: Axes, group: _Group, what: StudyFigure, legend: bool) -> None:
    tidy(frame)
    frame.set_ylabel(what.name, fontsize=9)
    if what.against is not None:
        frame.set_xlabel(what.against[1], fontsize=9)
    titles = [label(title, 44) for title in (group.title, what.title) if title]
    frame.set_title("\n".join(titles), loc="left", fontsize=9)
    frame.tick_params(which="both", labelsize=8)
    if legend:
        frame.legend(fontsize=6.5, framealpha=0.7, handlelength=2.6)


def _legend(figure: Figure, grid: Any, summary: _Summary, groups: Sequence[_Group]) -> None:
    if len(groups) > 1:
        baseline = f"black: {label(summary['baseline'], 30)} (baseline), in every panel"
        kinds = "dashed, squares: learnable;  solid, circles: fixed;  dash-dotted, triangles: following"
        figure.suptitle(f"{baseline}\n{kinds}", fontsize=9.5)
        return
    entries: dict[str, Any] = {}
    for frame in grid.flat:
        entries |= {name: handle for handle, name in zip(*frame.get_legend_handles_labels(), strict=True)}
    columns = math.ceil(len(entries) / math.ceil(len(entries) / 5))
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        handlelength=3,
    )


def _columns(cells: int) -> int:
    return cells if cells <= 3 else 2 if cells == 4 else 3 if cells <= 9 else 4


def _points(summary: _Summary, arm: str, what: StudyFigure) -> dict[str, Mapping[str, Any]]:
    """Mean and spread of a figure by setting, where there is one."""
    found = {}
    for setting, one in summary["settings"].items():
        entry = (one["summary"] or {"arms": {}})["arms"].get(arm)
        point = None if entry is None else entry["figures"].get(what.key)
        if point is not None:
            found[setting] = point
    return found


def _has(summary: _Summary, what: StudyFigure) -> bool:
    needed = [StudyFigure(key, key) for key in what.keys]
    return any(all(_points(summary, arm, one) for one in needed) for arm in summary["arms"])


def _groups(summary: _Summary) -> list[_Group]:
    arms, baseline = summary["arms"], summary["baseline"]
    by_loss: dict[str, list[str]] = {}
    for arm in sorted(arms, key=lambda arm: (arm != baseline, list(_KINDS).index(arms[arm]["kind"]))):
        by_loss.setdefault(loss_name(arms[arm]["settings"]), []).append(arm)
    if len(arms) <= MAX_TOGETHER:
        return [_Group("", _together(summary, by_loss))]
    groups = []
    for loss, members in by_loss.items():
        others = [arm for arm in members if arm != baseline]
        parts = [others[at : at + _MAX_IN_PANEL] for at in range(0, len(others), _MAX_IN_PANEL)]
        for count, part in enumerate(parts, start=1):
            title = loss if len(parts) == 1 else f"{loss} ({count} of {len(parts)})"
            groups.append(_Group(title, {baseline: _black(arms[baseline]), **_in_panel(summary, part)}))
    return groups


def _together(summary: _Summary, by_loss: Mapping[str, Sequence[str]]) -> dict[str, _Style]:
    """A colour for each loss if loss and kind of head tell all arms apart, else one for each arm."""
    arms, baseline = summary["arms"], summary["baseline"]
    ways = {(loss, arms[arm]["kind"]) for loss, members in by_loss.items() for arm in members}
    if 1 < len(by_loss) <= len(COLOURS) + 1 and len(ways) == len(arms):
        others = iter(COLOURS)
        styles: dict[str, _Style] = {}
        for members in by_loss.values():
            colour = BASELINE_COLOUR if baseline in members else next(others)
            styles |= {arm: _Style(colour, *_KINDS[arms[arm]["kind"]]) for arm in members}
        return {arm: styles[arm] for arm in arms}
    others_ = [arm for arm in arms if arm != baseline]
    return {baseline: _black(arms[baseline]), **_cycled(summary, others_)}


def _in_panel(summary: _Summary, part: Sequence[str]) -> dict[str, _Style]:
    kinds = [summary["arms"][arm]["kind"] for arm in part]
    if len(set(kinds)) < len(kinds):
        return _cycled(summary, part)
    return {arm: _Style(_KIND_COLOURS[kind], *_KINDS[kind]) for arm, kind in zip(part, kinds, strict=True)}


def _cycled(summary: _Summary, arms: Sequence[str]) -> dict[str, _Style]:
    """Colours in turn; those that come round again have hollow markers."""
    return {
        arm: _Style(COLOURS[at % len(COLOURS)], *_KINDS[summary["arms"][arm]["kind"]], at >= len(COLOURS))
        for at, arm in enumerate(arms)
    }


def _black(entry: Mapping[str, Any]) -> _Style:
    return _Style(BASELINE_COLOUR, *_KINDS[entry["kind"]])
