"""Features in the plane, as the first seed of each arm left them, with wrongly labelled images marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from etfhead.experiment.report.plot_style import COLOURS, label, new_figure, tidy
from etfhead.experiment.report.records import RunRecords

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FEATURES_FILE", "draw_features"]

FEATURES_FILE = "features.npz"

_MAX_COLUMNS = 6
_MORE_COLOURS = ("#6A3D9A", "#8C564B", "#7F7F7F", "#B5BD00")  # up to ten classes
_Points = npt.NDArray[np.float32]
_Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Scatter:
    """What a training left: points (N, 2) of training and test images with their labels."""

    train: _Points
    observed: _Labels
    true: _Labels
    test: _Points
    test_true: _Labels
    names: tuple[str, str]
    boundary: tuple[float, ...] | None


def draw_features(records: RunRecords, summary: Mapping[str, Any]) -> Figure | None:
    """One column an arm, training above and test below; ``None`` where no arm left its features.

    Args:
        records: The run folder.
        summary: Its summary.
    """
    found = {}
    for arm in sorted(records.runs, key=lambda arm: arm != summary["baseline"]):
        for seed in records.finished(arm):
            scatter = _read(records.folder / "arms" / arm / f"seed{seed}" / FEATURES_FILE)
            if scatter is not None:
                found[arm] = scatter
                break
    if not found:
        return None
    columns = min(len(found), _MAX_COLUMNS)
    blocks = math.ceil(len(found) / columns)
    figure = new_figure(max(5.2, 2.4 * columns), 4.9 * blocks + 0.5)
    grid = figure.subplots(2 * blocks, columns, squeeze=False)
    for axis in grid.flat:
        axis.set_visible(False)
    for at, (arm, scatter) in enumerate(found.items()):
        block, column = divmod(at, columns)
        above, below = grid[2 * block, column], grid[2 * block + 1, column]
        above.set_visible(True)
        below.set_visible(True)
        _draw(above, scatter.train, scatter.true, scatter.observed)
        _draw(below, scatter.test, scatter.test_true, scatter.test_true)
        _dress(above, below, scatter)
        above.set_title(label(arm, 26), loc="left", fontsize=10)
        if not column:
            above.set_ylabel(f"training\n{scatter.names[1]}", fontsize=8)
            below.set_ylabel(f"test\n{scatter.names[1]}", fontsize=8)
        below.set_xlabel(scatter.names[0], fontsize=8)
    classes = sorted({int(k) for scatter in found.values() for k in scatter.true})
    _legend(figure, classes, records.data.get("class_names"))
    return figure


def _legend(figure: Figure, classes: Sequence[int], names: Any) -> None:
    from matplotlib.lines import Line2D

    known = isinstance(names, list) and max(classes) < len(names)
    marks = [("o", _colour(k), str(names[k]) if known else str(k)) for k in classes]
    marks.append(("x", "#444444", "wrongly labelled"))
    handles = [
        Line2D([], [], linestyle="none", marker=mark, color=colour, label=label(text, 24))
        for mark, colour, text in marks
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6), frameon=False)


def _read(path: Path) -> _Scatter | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file["names"].tolist()
            return _Scatter(
                train=file["train"],
                observed=file["observed"],
                true=file["true"],
                test=file["test"],
                test_true=file["test_true"],
                names=(names[0], names[1]),
                boundary=tuple(file["boundary"].tolist()) or None,
            )
    except (OSError, ValueError, KeyError, IndexError, EOFError):  # never written, or damaged
        return None


def _colour(k: int) -> str:
    return (*COLOURS, *_MORE_COLOURS)[k % (len(COLOURS) + len(_MORE_COLOURS))]


def _draw(axis: Axes, points: _Points, true: _Labels, observed: _Labels) -> None:
    wrong = true != observed
    for k in np.unique(true):
        right = (true == k) & ~wrong
        axis.plot(
            *points[right].T, linestyle="none", marker=".", markersize=2.5, alpha=0.45, color=_colour(int(k))
        )
    for k in np.unique(true[wrong]):
        off = wrong & (true == k)
        axis.plot(
            *points[off].T,
            linestyle="none",
            marker="x",
            markersize=4,
            markeredgewidth=0.9,
            color=_colour(int(k)),
        )


def _dress(above: Axes, below: Axes, scatter: _Scatter) -> None:
    """The same frame for both splits: it holds all points but the farthest of a thousand."""
    both = np.concatenate([scatter.train, scatter.test])
    low, high = np.quantile(both, 0.001, axis=0), np.quantile(both, 0.999, axis=0)
    margin = np.maximum(0.06 * (high - low), 1e-6)
    for axis in (above, below):
        tidy(axis)
        axis.tick_params(labelsize=7)
        axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
        if scatter.boundary is not None:
            _line(axis, scatter.boundary)


def _line(axis: Axes, boundary: tuple[float, ...]) -> None:
    a, b, c = boundary
    if abs(b) > abs(a) * 1e-9:
        x = np.array(axis.get_xlim())
        axis.plot(
            x, -(a * x + c) / b, linestyle="--", linewidth=1, color="#444444", scalex=False, scaley=False
        )
    elif a:
        axis.axvline(-c / a, linestyle="--", linewidth=1, color="#444444")
