"""Accuracy by how many training images a class has: figures of the summary, and the section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from etfhead.experiment.class_frequency import FIELD_LIMITS, FREQUENCIES, frequency_groups
from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.document import Block, Heading, Paragraph, Table
from etfhead.experiment.report.records import RunRecords, number
from etfhead.experiment.report.stats import paired_difference, spread_by_seed

__all__ = ["FREQUENCY_CAPTION", "FREQUENCY_COLUMNS", "add_class_frequency", "class_frequency"]

FREQUENCY_COLUMNS = tuple(f"test_top1_{name}_{when}" for name in FREQUENCIES for when in ("best", "last"))
FREQUENCY_CAPTION = (
    "Test accuracy against the rank of the class by its training images, most frequent first",
    "Of the best validation epoch. Lines are means over the finished seeds; bands reach from the smallest to "
    "the largest seed, of which each may have drawn other classes for a rank. More than 20 classes are "
    "averaged in groups.",
)
_KEY = "test_top1_by_rank"


def add_class_frequency(summary: dict[str, Any], records: RunRecords) -> None:
    """Add the figures to a summary, if any training is of a long tail; others stay as they are.

    Each row of ``runs`` gets :data:`FREQUENCY_COLUMNS`, each arm these ``figures``, ``top1_by_rank`` (the
    best epoch's accuracies from the most to the least frequent class, by seed) and, except for the baseline,
    their ``differences``.

    Args:
        summary: With ``runs`` and ``arms``.
        records: What it was made from.
    """
    results = [run.result for seeds in records.runs.values() for run in seeds.values() if run.result]
    if not any(f"test_top1_{name}" in result["best"] for result in results for name in FREQUENCIES):
        return
    for row in summary["runs"]:
        result = records.runs[row["arm"]][row["seed"]].result or {}
        for name in FREQUENCIES:
            for when in ("best", "last"):
                row[f"test_top1_{name}_{when}"] = number(result.get(when), f"test_top1_{name}")
    arms = summary["arms"]
    for arm, entry in arms.items():
        done = [row for row in summary["runs"] if row["arm"] == arm and row["state"] == "finished"]
        for key in FREQUENCY_COLUMNS:
            values = {row["seed"]: row[key] for row in done if row[key] is not None}
            entry["figures"][key] = spread_by_seed(values)
        entry["top1_by_rank"] = {
            str(seed): run.result["best"][_KEY]
            for seed, run in records.runs[arm].items()
            if run.result is not None and isinstance(run.result["best"].get(_KEY), list)
        }
    reference = arms[summary["baseline"]]["figures"]
    for arm, entry in arms.items():
        for key in FREQUENCY_COLUMNS if arm != summary["baseline"] else ():
            ours, theirs = entry["figures"][key], reference[key]
            pair = paired_difference(ours["values"], theirs["values"]) if ours and theirs else None
            entry["differences"][key] = None if pair is None else asdict(pair)


def class_frequency(
    summary: Mapping[str, Any], data: Mapping[str, Any], figures: Sequence[Block]
) -> list[Block]:
    """Many-, medium- and few-shot accuracy of every arm; no blocks where classes are about equally frequent.

    Args:
        summary: What :func:`~etfhead.experiment.report.summary.summarize` returned.
        data: ``data.json``, for the counts.
        figures: The picture, if there is one.
    """
    arms = summary["arms"]
    keyed = [(name, f"test_top1_{name}_best") for name in FREQUENCIES]
    shown = [(name, key) for name, key in keyed if any(arm["figures"].get(key) for arm in arms.values())]
    if not shown:
        return []
    least, key = shown[-1]
    rows = []
    for arm, entry in arms.items():
        pair = (entry.get("differences") or {}).get(key)
        rows.append(
            [
                fmt.arm_name(arm, summary["baseline"]),
                *(fmt.mean_std(entry["figures"].get(column)) for _, column in shown),
                "" if arm == summary["baseline"] else fmt.signed(pair and pair["mean"]),
                "" if arm == summary["baseline"] else fmt.interval(pair),
            ]
        )
    header = ["arm", *(f"{name}-shot" for name, _ in shown), f"{least}-shot, difference", "95 % interval"]
    return [
        Heading("By class frequency"),
        Paragraph(
            "Test accuracy in percent at the best validation epoch, the mean over the classes of each group. "
            f"{_rule(data)} Differences are against {summary['baseline']}, paired by seed."
        ),
        Table(header, rows),
        *figures,
    ]


def _rule(data: Mapping[str, Any]) -> str:
    counts = data.get("class_counts")
    if not isinstance(counts, list) or len(counts) < 3:
        return ""
    groups, rule = frequency_groups(counts)
    low, high = FIELD_LIMITS
    if rule == "limits":
        text = f"Many-shot classes have more than {high} training images, few-shot ones fewer than {low}"
    else:
        text = (
            f"The limits of the field ({high} and {low} training images) do not divide these classes, so the "
            "third with most images is many-shot and the third with fewest few-shot, equal counts together"
        )
    spans = []
    for name, members in groups.items():
        found = sorted({counts[k] for k in members})
        span = f"{found[-1]}" if len(found) == 1 else f"{found[-1]} to {found[0]}"
        plural = "class" if len(members) == 1 else "classes"
        spans.append(f"{name}: {len(members)} {plural} of {span} images")
    seeds = " of the first seed" if data.get("draws") else ""
    return f"{text} ({'; '.join(spans)}{seeds})."
