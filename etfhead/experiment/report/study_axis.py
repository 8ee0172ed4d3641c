"""Where the settings of a study stand on an axis: by their number if they differ in one, else in a row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report.plot_style import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SettingAxis", "setting_axis"]

_EVEN = 8  # gaps that differ by no more than this factor leave every setting visible on a linear axis


@dataclass(frozen=True)
class SettingAxis:
    """An axis of settings.

    Args:
        name: What it shows.
        places: Place of each setting; logarithms where ``log``.
        ticks: Their labels.
        log: Whether the axis is logarithmic.
    """

    name: str
    places: Mapping[str, float]
    ticks: Mapping[str, str]
    log: bool = False

    def beside(self, setting: str, steps: float) -> float:
        """A place a little beside the setting's, so that the bars of several arms do not hide each other."""
        span = max(self.places.values()) - min(self.places.values()) or 1.0
        place = self.places[setting] + 0.008 * span * steps
        return 10.0**place if self.log else place

    def dress(self, frame: Axes) -> None:
        """Scale, ticks and label of a horizontal axis."""
        from matplotlib.ticker import NullFormatter

        if self.log:
            frame.set_xscale("log")
            frame.xaxis.set_minor_formatter(NullFormatter())
        places = [10.0**place if self.log else place for place in self.places.values()]
        names = [label(tick, 16) for tick in self.ticks.values()]
        crowded = sum(map(len, names)) > 32
        frame.set_xticks(places, names, rotation=30 if crowded else 0, ha="right" if crowded else "center")
        frame.set_xlabel(label(self.name, 40), fontsize=9)


def setting_axis(summary: Mapping[str, Any]) -> SettingAxis:
    """The axis for a study: linear, logarithmic, or names in the recipe's order.

    >>> axis = {"field": "weight_decay", "values": {"weak": 1e-5, "mid": 1e-3, "strong": 1e-1}}
    >>> setting_axis({"settings": axis["values"], "axis": axis}).log
    True
    """
    given = summary["axis"]
    if given is not None:
        values = given["values"]
        ticks = {setting: f"{value:g}" for setting, value in values.items()}
        ordered = sorted(values.values())
        gaps = [after - before for before, after in itertools.pairwise(ordered)]
        if not gaps or max(gaps) <= _EVEN * min(gaps):
            return SettingAxis(given["field"], values, ticks)
        if ordered[0] > 0:
            places = {setting: math.log10(value) for setting, value in values.items()}
            return SettingAxis(given["field"], places, ticks, log=True)
        rank = {setting: float(ordered.index(value)) for setting, value in values.items()}
        return SettingAxis(given["field"], rank, ticks)
    settings = list(summary["settings"])
    return SettingAxis("setting", {s: float(at) for at, s in enumerate(settings)}, {s: s for s in settings})
