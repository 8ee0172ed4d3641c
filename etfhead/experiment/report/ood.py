"""Telling test images from another data set's: figures of the summary, and the section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.document import Block, Bullets, Heading, Paragraph, Table
from etfhead.experiment.report.records import RunRecords, number
from etfhead.experiment.report.stats import paired_difference, spread_by_seed

__all__ = ["OOD_COLUMNS", "OOD_NAMES", "add_ood", "ood"]

OOD_NAMES = {
    "max_logit": "largest logit",
    "max_softmax": "largest probability",
    "neco": "NECO",
    "neco_logit": "NECO × largest logit",
    "nci": "NCI",
}
_MEANINGS = (
    "largest logit, largest probability: the two scores that need no more than the prediction.",
    "NECO: the share of a feature that lies in the principal directions of the training features (those with "
    "90 % of the variance, features standardised); for transformers the authors multiply it with the largest "
    "logit. arXiv 2310.06823.",
    "NCI: how far a feature, less the mean of the training features, points along its class vector, plus "
    "1e-4 of its L1 norm. arXiv 2311.01479.",
)
_WHEN = ("best", "last")
OOD_COLUMNS = tuple(f"test_ood_auroc_{name}_{when}" for name in OOD_NAMES for when in _WHEN)


def add_ood(summary: dict[str, Any], records: RunRecords) -> None:
    """Add the figures to a summary, if any training has them; others stay as they are.

    Each row of ``runs`` gets :data:`OOD_COLUMNS` (AUROC in percent), each arm these ``figures`` and, except
    for the baseline, their ``differences``; the summary gets ``ood``: ``dataset``, ``images``, and
    ``problems``, reasons why a figure is missing.

    Args:
        summary: With ``runs`` and ``arms``.
        records: What it was made from.
    """
    runs = [run for arm in records.runs for run in records.finished(arm).values()]
    tests = [run.result[when] for run in runs if run.result is not None for when in _WHEN]
    if not any(number(test, "test_ood_images") is not None for test in tests):
        return
    for row in summary["runs"]:
        result = records.runs[row["arm"]][row["seed"]].result or {}
        for name in OOD_NAMES:
            for when in _WHEN:
                row[f"test_ood_auroc_{name}_{when}"] = number(result.get(when), f"test_ood_auroc_{name}")
    arms = summary["arms"]
    for arm, entry in arms.items():
        done = [row for row in summary["runs"] if row["arm"] == arm and row["state"] == "finished"]
        for key in OOD_COLUMNS:
            values = {row["seed"]: row[key] for row in done if row[key] is not None}
            entry["figures"][key] = spread_by_seed(values)
    reference = arms[summary["baseline"]]["figures"]
    for arm, entry in arms.items():
        for key in OOD_COLUMNS if arm != summary["baseline"] else ():
            ours, theirs = entry["figures"][key], reference[key]
            pair = paired_difference(ours["values"], theirs["values"]) if ours and theirs else None
            entry["differences"][key] = None if pair is None else asdict(pair)
    images = {int(n) for test in tests if (n := number(test, "test_ood_images")) is not None}
    summary["ood"] = {
        "dataset": str(records.recipe.get("ood_dataset")),
        "images": max(images),
        "problems": _problems(records),
    }


def ood(summary: Mapping[str, Any]) -> list[Block]:
    """AUROC of every arm and its differences; no blocks without such data.

    Args:
        summary: What :func:`~etfhead.experiment.report.summary.summarize` returned.
    """
    facts = summary.get("ood")
    if not facts:
        return []
    arms, baseline = summary["arms"], summary["baseline"]
    header = ["arm", *OOD_NAMES.values()]
    keys = [f"test_ood_auroc_{name}_best" for name in OOD_NAMES]
    rows = [
        [
            fmt.arm_name(arm, baseline),
            *(fmt.mean_std(entry["figures"].get(key)) for key in keys),
        ]
        for arm, entry in arms.items()
    ]
    text = (
        f"How well the trained networks tell the test images from the {facts['images']:,} images of "
        f"{facts['dataset']}, which they never saw: AUROC in percent at the best validation epoch, the "
        "chance that a test image scores higher than one of the others (50 = guessing). Both sets are read "
        "once, after the end; what NECO and NCI fit, they fit to training features. Mean ± sample standard "
        "deviation over seeds."
    )
    blocks: list[Block] = [Heading("Out-of-distribution images"), Paragraph(text), Table(header, rows)]
    pairs = [
        [arm, *(_with_interval((entry.get("differences") or {}).get(key)) for key in keys)]
        for arm, entry in arms.items()
        if arm != baseline
    ]
    if pairs:
        text = (
            f"Minus {baseline}, in points, paired by seed, with the 95 % interval (not adjusted for the "
            "number of comparisons):"
        )
        blocks += [Paragraph(text), Table(header, pairs)]
    return [*blocks, Bullets([*_MEANINGS, *facts["problems"]])]


def _problems(records: RunRecords) -> list[str]:
    """Each reason once, with where it first occurred."""
    found: dict[tuple[str, str], str] = {}
    for arm in records.runs:
        for seed, run in records.finished(arm).items():
            for when in _WHEN:
                reasons = (run.result or {}).get(when, {}).get("test_ood_problems")
                for name, reason in reasons.items() if isinstance(reasons, Mapping) else ():
                    found.setdefault((arm, str(name)), f"seed {seed}, {when} weights: {reason}")
    return [f"No {OOD_NAMES.get(name, name)} for {arm}, {reason}." for (arm, name), reason in found.items()]


def _with_interval(pair: Mapping[str, Any] | None) -> str:
    if pair is None:
        return fmt.MISSING
    bounds = fmt.interval(pair)
    return fmt.signed(pair["mean"]) + ("" if bounds == fmt.MISSING else f" ({bounds})")
