"""Tables of what features and class vectors became in a study: collapse, dilation, closed forms."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.views.cells import load, paired, spread, table
from etfhead.experiment.report.formatting import significant
from etfhead.experiment.report.stats import paired_difference


def regression_study(name: str) -> str:
    """Regression collapse: R2 at the best epoch, and how far NRC1 and NRC2 fell over training."""
    study = load(name)
    rows = []
    for one in study["settings"].values():
        summary = one["summary"]
        change = ", ".join(f"{value:g}" for value in one["changes"].values())
        for arm, entry in summary["arms"].items():
            start = next(row for row in entry["collapse_by_epoch"] if row["epoch"] == 0)
            falls = []
            for key in ("nrc1", "nrc2"):
                before, after = start[key], entry["figures"][key]
                least = min(before["values"][seed] / after["values"][seed] for seed in after["values"])
                falls.append(f"{significant(after['mean'], 2)} (×{significant(least, 2)})")
            r2 = spread(entry["figures"][summary["primary"]], 2)
            minus = paired(entry.get("differences", {}).get(summary["primary"]), 2)
            rows.append([change, f"`{arm}`", r2, minus, *falls])
    axis = next(iter(study["settings"].values()))["changes"]
    header = [", ".join(f"`{key}`" for key in axis), "arm", "test R² (%)", f"minus `{study['baseline']}`"]
    return table([*header, "NRC1 (fell by)", "NRC2 (fell by)"], rows)


def memorization_study(name: str) -> str:
    """Dilation and memorization of each loss and head, and dilation minus that of the head's first arm."""
    rows = []
    for setting, one in load(name)["settings"].items():
        first: dict[str, Any] = {}  # the arms of a head begin with plain cross-entropy
        for arm, entry in one["summary"]["arms"].items():
            figures = entry["figures"]
            dilation = figures["md_dilation"]["values"]
            plain = first.setdefault(entry["settings"]["head"], dilation)
            pair = None if plain is dilation else paired_difference(dilation, plain)
            minus = "" if pair is None else paired(asdict(pair), 3)
            keys = ("md_dilation", "md_memorization_relative", "md_memorized_fraction")
            cells = [spread(figures.get(key), 3) for key in keys]
            rows.append([f"`{setting}`", f"`{arm}`", cells[0], minus, *cells[1:]])
    header = ["setting", "arm", "dilation", "minus cross-entropy [95 %]"]
    return table([*header, "relative memorization", "memorized share"], rows)


def tail_study(name: str) -> str:
    """How far the linear layers of a study ended from the closed form of their class counts."""
    keys = ("tail_weights", "tail_means", "tail_product", "tail_balanced")
    rows = []
    for setting, one in load(name)["settings"].items():
        for arm in one["summary"]["arms"].values():
            found = [arm["figures"][key] for key in keys]
            cells = [f"{significant(f['mean'], 2)} ± {significant(f['std'], 1)}" for f in found]
            rows.append([f"`{setting}`", *cells])
    return table(["setting", "W Wᵀ", "Hᵀ H", "W H", "W Wᵀ from the frame of equal counts"], rows)


VIEWS = {"regression": regression_study, "memorization": memorization_study, "tail": tail_study}
