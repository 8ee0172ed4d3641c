"""The last columns of a card's table of losses: what each costs, and what it does under label noise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.report.stats import paired_difference

__all__ = ["with_columns"]

# Module: its line in benchmarks.noise_losses, and its name in a recipe.
_NAMES = {
    "CrossEntropyLoss": ("cross_entropy", "cross_entropy"),
    "LabelSmoothingCrossEntropyLoss": ("label_smoothing", "label_smoothing"),
    "LabelRelaxationLoss": ("label_relaxation", "label_relaxation"),
    "GeneralizedCrossEntropyLoss": ("generalized", "generalized_cross_entropy"),
    "MeanAbsoluteErrorLoss": ("mean_absolute_error", "mean_absolute_error"),
    "ReverseCrossEntropyLoss": ("reverse", "reverse_cross_entropy"),
    "SymmetricCrossEntropyLoss": ("symmetric", "symmetric_cross_entropy"),
    "NormalizedCrossEntropyLoss": ("normalized", "normalized_cross_entropy"),
    "ActivePassiveLoss": ("active_passive", "active_passive"),
    "NormalizedNegativeLoss": ("normalized_negative", "normalized_negative"),
    "ActiveNegativeLoss": ("active_negative", "active_negative"),
    "AsymmetricGeneralizedCrossEntropyLoss": ("agce", "asymmetric_generalized_cross_entropy"),
    "AsymmetricUnhingedLoss": ("aul", "asymmetric_unhinged"),
    "AsymmetricExponentialLoss": ("ael", "asymmetric_exponential"),
    "AsymmetricMeanSquareLoss": ("asymmetric_mean_square", "asymmetric_mean_square"),
    "JointAsymmetricLoss": ("joint_asymmetric", "joint_asymmetric"),
    "BootstrappingLoss": ("bootstrapping_hard", "bootstrapping"),
    "ForwardCorrectionLoss": ("forward_correction", "forward_correction"),
    "BackwardCorrectionLoss": ("backward_correction", "backward_correction"),
    "TaylorCrossEntropyLoss": ("taylor", "taylor_cross_entropy"),
    "HuberizedCrossEntropyLoss": ("huberized", "huberized_cross_entropy"),
    "PolyCrossEntropyLoss": ("poly", "poly_cross_entropy"),
    "BiTemperedLoss": ("bi_tempered", "bi_tempered"),
    "JensenShannonLoss": ("jensen_shannon", "jensen_shannon"),
    "LogitClipLoss": ("logit_clip", "logit_clip"),
    "ETFDotLoss": ("etf_dot", "etf_dot"),
    "DotRegressionLoss": ("dot_regression", "dot_regression"),
    "EarlyLearningRegularizationLoss": ("early_learning", "early_learning"),
    "SparseOverparametrizationLoss": ("sparse_overparametrization", "sparse_overparametrization"),
}
_COST = "cost"
_HEADS = {"linear": "learnable", "etf": "fixed"}


def with_columns(
    table: str,
    costs: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any] | None,
    figure: str = "test_top1_last",
) -> str:
    """The table with its columns from ``cost`` on written anew.

    Args:
        table: Markdown; the first cell of a row begins with a loss module's name as code.
        costs: Rows of ``noise_losses``.
        summary: Of one setting of a comparison of losses; None where there is none yet.
        figure: Which figure of it. A difference is to cross-entropy with the same head and neck, paired by
            seed.
    """
    header, _, *rows = (_cells(line) for line in table.strip().splitlines())
    fixed = header.index(_COST) if _COST in header else len(header)
    ratios = {row["loss"]: f"{row['ratio_to_cross_entropy']['median']:.2f}" for row in costs}
    effects = [] if summary is None else [_effects(summary, head, figure) for head in _HEADS]
    titles = [_COST, *(list(_HEADS.values()) if effects else [])]
    lines = [[*header[:fixed], *titles], [*["---"] * fixed, *["---:"] * len(titles)]]
    for row in rows:
        cost, loss = _NAMES[row[0].split("`")[1]]
        lines.append([*row[:fixed], ratios.get(cost, ""), *(found.get(loss, "") for found in effects)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _effects(summary: Mapping[str, Any], head: str, figure: str) -> dict[str, str]:
    """Of each loss with this head, behind the neck that fixed heads have: the figure, and the difference."""
    arms = summary["arms"].values()
    neck = next((arm["settings"].get("neck") for arm in arms if arm["settings"]["head"] == "etf"), None)
    values = {
        arm["settings"]["loss"]: arm["figures"][figure]
        for arm in arms
        if arm["settings"]["head"] == head
        and arm["settings"].get("neck") == neck
        and arm["figures"].get(figure) is not None
    }
    plain = values.get("cross_entropy")
    found = {}
    for loss, spread in values.items():
        found[loss] = f"{spread['mean']:.1f}"
        pair = None if plain is None else paired_difference(spread["values"], plain["values"])
        if loss != "cross_entropy" and pair is not None:
            reach = "" if pair.low is None else f" [{pair.low:+.1f}, {pair.high:+.1f}]"
            found[loss] += f" ({pair.mean:+.1f}{reach})"
    return found
