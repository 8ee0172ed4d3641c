"""The look the report's pictures share: colours, figures, axes, labels.

Only matplotlib's object interface is used: no pyplot, no global state, no display.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BASELINE_COLOUR", "COLOURS", "DPI", "label", "new_figure", "png", "tidy"]

DPI = 150

# Okabe and Ito's palette (distinct under the common colour-vision deficiencies) without its yellow, which
# vanishes on white; black belongs to the baseline.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BASELINE_COLOUR = "#1a1a1a"


def new_figure(width: float, height: float) -> Figure:
    """A white figure (inches) that makes room for its labels and legends by itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axis: Axes) -> None:
    """A light grid behind the data and no box around it."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(visible=True, color="#d9d9d9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=9)


def label(text: str, limit: int) -> str:
    r"""A name as matplotlib shows it literally, shortened to ``limit`` characters.

    >>> label("cost_$", 10), label("_hidden", 10), label("a_very_long_name", 8)
    ('cost_\\$', '\u2009_hidden', 'a_very_…')
    """
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    short = short.replace("$", r"\$")  # otherwise the start of a formula
    return "\u2009" + short if short.startswith("_") else short  # legends skip names that start with "_"


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
