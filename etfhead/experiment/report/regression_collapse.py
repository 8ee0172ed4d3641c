"""Neural regression collapse of a training: its figures, its picture, and the section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.collapse import CollapseFigure
from etfhead.experiment.report.collapse_plot import Panel
from etfhead.experiment.report.collapse_section import measuring
from etfhead.experiment.report.document import Block, Bullets, Heading, Paragraph, Table

__all__ = ["NRC", "NRC_CAPTION", "NRC_PANELS", "regression_collapse"]

NRC = (
    CollapseFigure(
        "nrc1",
        "NRC1",
        "mean over samples of the squared part of h/|h| outside the first n principal components of the "
        "centred features",
    ),
    CollapseFigure(
        "nrc2", "NRC2", "mean over samples of the squared part of h/|h| outside the rows of the weight W"
    ),
    CollapseFigure(
        "nrc3",
        "NRC3",
        "‖A/‖A‖ − B/‖B‖‖² with A = W Wᵀ and B = Σ^(1/2) − γ^(1/2) I: Σ the covariance of the targets, γ "
        "between 0 and its smallest eigenvalue such that the figure is least",
    ),
    CollapseFigure("nrc_energy", "energy", "mean over samples of |h|²"),
)
_FALL = ("nrc1", "nrc2")  # those that the theorem sends to zero whatever the head

NRC_PANELS = (
    Panel("nrc1", "NRC1", "outside n components", log=True),
    Panel("nrc2", "NRC2", "outside the rows of W", log=True),
    Panel("nrc3", "NRC3", "W Wᵀ off the theorem", log=True, floor=1e-12),
)
NRC_CAPTION = (
    "Neural regression collapse against epoch, one panel for each figure",
    "Logarithmic axes; every figure is zero at full collapse. NRC1: features outside their first n "
    "principal components, n the number of targets. NRC2: features outside the rows of the weight. NRC3: "
    "form of W Wᵀ, which a fixed head has from the start (below 1e-12 it is drawn as zero; one for whitened "
    "targets has another form, and stays at its distance). Epoch 0 is the untrained network. Lines are "
    "means over the finished seeds; bands reach from the smallest to the largest seed.",
)


def regression_collapse(summary: Mapping[str, Any], figures: Sequence[Block]) -> list[Block]:
    """Picture, first and last values and the factor between them; no blocks where nothing was measured.

    Args:
        summary: What :func:`~etfhead.experiment.report.summary.summarize` returned.
        figures: The picture, if there is one.
    """
    arms = summary["arms"]
    shown = [figure for figure in NRC if any(arm["figures"].get(figure.key) for arm in arms.values())]
    if not shown:
        return []
    header = ["arm"]
    for figure in shown:
        header += [f"{figure.name} at start", f"{figure.name} at end"]
        header += ["fell by"] if figure.key in _FALL else []
    rows = []
    for arm, entry in arms.items():
        row = [fmt.arm_name(arm, summary["baseline"])]
        start: Mapping[str, Any] = next((e for e in entry["collapse_by_epoch"] if e["epoch"] == 0), {})
        for figure in shown:
            last = entry["figures"].get(figure.key)
            row += [fmt.wide_mean_std(start.get(figure.key)), fmt.wide_mean_std(last)]
            row += [_least_fall(start.get(figure.key), last)] if figure.key in _FALL else []
        rows.append(row)
    return [
        Heading("Regression collapse"),
        Paragraph(
            "How far the features of a fixed subset of the training samples have collapsed to as many "
            "directions as there are targets, and whether the weight W reads exactly these. It describes the "
            "features and is no score. With weight decay NRC1 and NRC2 fall; without it nothing makes them."
        ),
        *figures,
        Paragraph(
            "Before training and at the last measuring, mean ± sample standard deviation over seeds; zero is "
            "full collapse. 'Fell by' is the smallest factor over seeds. All epochs are in summary.json."
        ),
        Table(header, rows),
        *measuring(summary),
        Paragraph("The formulas, with h the feature that W multiplies:"),
        Bullets([f"{figure.name} = {figure.formula}" for figure in shown]),
        Paragraph(
            "Features behind a ReLU do not collapse this way: the last hidden layer has to be linear. NRC3 "
            "is left out for one target, and is a test from three targets on. More is in docs/regression.md."
        ),
    ]


def _least_fall(start: Mapping[str, Any] | None, last: Mapping[str, Any] | None) -> str:
    if start is None or last is None:
        return fmt.MISSING
    pairs = [
        (start["values"][seed], value) for seed, value in last["values"].items() if seed in start["values"]
    ]
    if not pairs:
        return fmt.MISSING
    factors = [before / after if after > 0 else float("inf") for before, after in pairs]
    least = min(factors)
    return "all of it" if least == float("inf") else f"×{fmt.significant(least, 2)}"
