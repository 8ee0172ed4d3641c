"""One small picture of several figures that go to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Axis: TypeAlias = Axes
else:
    Axis: TypeAlias = Any

__all__ = ["Axis", "plot_figures"]

Figures = Mapping[str, Tensor]


def plot_figures(values: Figures | Sequence[Figures], names: Sequence[str], ax: Axis | None = None) -> Any:
    """Draw figures on a logarithmic axis: one result as dots, several as lines against their number.

    Args:
        values: One result, or results in order.
        names: Which figures, where present.
        ax: Axis to draw in; None makes a figure without touching pyplot's.

    Returns:
        Figure and axis.
    """
    series = [values] if isinstance(values, Mapping) else list(values)
    if not series:
        raise ValueError("val: expected a result or a list of results, got an empty list")
    if ax is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
    shown = [name for name in names if any(name in row for row in series)]
    for name in shown:
        line = [float(row[name]) if name in row else float("nan") for row in series]
        if len(series) == 1:
            ax.plot([name], line, "o", label=name)
        else:
            ax.plot(range(len(line)), line, label=name)
    # Linear near zero: exact collapse has no logarithm.
    ax.set_yscale("symlog", linthresh=1e-8)
    ax.set_ylim(bottom=0.0)
    if len(series) > 1:
        ax.set_xlabel("evaluation")
        ax.legend()
    else:
        ax.tick_params(axis="x", labelrotation=30)
    return ax.get_figure(), ax
