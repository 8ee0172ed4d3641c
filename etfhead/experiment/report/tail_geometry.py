"""The linear tail of a training beside the deep linear optimum: figures of the summary, picture, section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.collapse_plot import Panel
from etfhead.experiment.report.document import Block, Heading, Paragraph, Table
from etfhead.experiment.report.records import RunRecords
from etfhead.experiment.report.stats import spread_by_seed

__all__ = ["TAIL_CAPTION", "TAIL_FIGURES", "TAIL_PANELS", "add_tail_geometry", "tail_geometry"]

TAIL_FIGURES = {
    "tail_weights": "W Wᵀ",
    "tail_means": "Hᵀ H",
    "tail_product": "W H",
    "tail_nc1": "within classes",
    "tail_balanced": "W Wᵀ from equal counts",
}
TAIL_PANELS = (
    Panel("tail_weights", "W Wᵀ", "layers off the optimum", log=True),
    Panel("tail_means", "Hᵀ H", "class means off the optimum", log=True),
    Panel("tail_product", "W H", "their products off it", log=True),
    Panel("tail_nc1", "NC1", "spread within classes", log=True),
)
TAIL_CAPTION = (
    "Distance of the linear tail from the deep linear optimum against epoch",
    "Logarithmic axes; zero is the predicted geometry. W is the product of the last linear layers, H holds "
    "the class means of the features before them. Lines are means over the finished seeds; bands reach from "
    "the smallest to the largest seed.",
)


def add_tail_geometry(summary: dict[str, Any], records: RunRecords) -> None:
    """Add the last measured figures to ``arms.<arm>.figures``, if any training has them.

    Args:
        summary: With ``arms``.
        records: What it was made from.
    """
    for arm, entry in summary["arms"].items():
        for key in TAIL_FIGURES:
            measured = {seed: run.measured(key, initial=True) for seed, run in records.finished(arm).items()}
            values = {seed: found[max(found)] for seed, found in measured.items() if found}
            if values:
                entry["figures"][key] = spread_by_seed(values)


def tail_geometry(summary: Mapping[str, Any], figures: Sequence[Block]) -> list[Block]:
    """Picture and last values; no blocks where no arm decays its tail as theory does.

    Args:
        summary: What :func:`~etfhead.experiment.report.summary.summarize` returned.
        figures: The picture, if there is one.
    """
    arms = {
        arm: entry for arm, entry in summary["arms"].items() if entry["figures"].get("tail_nc1") is not None
    }
    if not arms:
        return []
    rows = [
        [arm, *(fmt.wide_mean_std(entry["figures"].get(key)) for key in TAIL_FIGURES)]
        for arm, entry in arms.items()
    ]
    return [
        Heading("Linear tail beside theory"),
        Paragraph(
            "Frobenius distances, each matrix divided by its norm, of the last linear layers' product W, the "
            "class means H before them and W H from the optimum of squared error with these decays at the "
            "training's class counts (Dang et al. 2023, arXiv 2301.00437). The last column is the distance "
            "of W Wᵀ from what equal counts would give: where theory holds on unequal counts it stays large."
        ),
        *figures,
        Paragraph("At the last measuring, mean ± sample standard deviation over seeds."),
        Table(["arm", *TAIL_FIGURES.values()], rows),
    ]
