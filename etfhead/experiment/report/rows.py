"""The rows of ``summary.csv``: flat, one for each arm and seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etfhead.experiment.report.collapse import COLLAPSE, COLLAPSE_COUNTS, CollapseFigure, last_collapse
from etfhead.experiment.report.records import RunRecords, SeedRecord, number
from etfhead.experiment.report.regression_collapse import NRC
from etfhead.experiment.report.score import TOP1, Score
from etfhead.experiment.report.stats import describe

__all__ = [
    "COLUMNS",
    "TARGET",
    "WHOLE_RUN",
    "collapse_columns",
    "collapse_measures",
    "columns",
    "run_row",
    "validation_target",
]

WHOLE_RUN = (
    "epochs",
    "steps",
    "images_per_s",
    "train_time",
    "align_time",
    "collapse_time",
    "peak_memory_bytes",
    "params_total",
    "params_trainable",
    "params_head",
    "head_bytes",
    "optimizer_state_bytes",
    "optimizer_state_bytes_head",
)
TARGET = ("target_epochs", "target_steps", "target_seconds")


def columns(score: Score) -> tuple[str, ...]:
    """Columns of ``summary.csv``: those of neural collapse only with one class an image."""
    return (
        "arm",
        "seed",
        "state",
        *score.figures,
        "best_epoch",
        *WHOLE_RUN,
        *collapse_columns(score),
        f"target_{score.val}",
        *TARGET,
        "device",
    )


def collapse_measures(score: Score) -> tuple[CollapseFigure, ...]:
    """What neural collapse is measured by; nothing on multi-label data."""
    return () if score.multilabel else NRC if score.regression else COLLAPSE


def collapse_columns(score: Score) -> tuple[str, ...]:
    """The columns of :func:`collapse_measures`."""
    shown = tuple(figure.key for figure in collapse_measures(score))
    return ("collapse_epoch", *shown, *COLLAPSE_COUNTS) if shown else ()


COLUMNS = columns(TOP1)


def validation_target(records: RunRecords, score: Score) -> tuple[float | None, str | None]:
    """The recipe's target, else one point below the baseline's mean best validation metric.

    Args:
        records: Of the whole run.
        score: What the run is about.

    Returns:
        The target in percent and where it is from: ``recipe``, ``automatic``, or None without one.
    """
    stated = number(records.recipe, "target_accuracy")
    if stated is not None:
        return stated, "recipe"
    best = [_best_validation(run, score) for run in records.finished(records.recipe["baseline"]).values()]
    spread = describe([value for value in best if value is not None])
    return (None, None) if spread is None else (spread.mean - 1.0, "automatic")


def run_row(run: SeedRecord, target: float | None, score: Score) -> dict[str, Any]:
    """The row of one arm and seed, by column; None where nothing is known.

    Args:
        run: What the folder holds of it.
        target: The validation metric to be reached.
        score: What the run is about.
    """
    row: dict[str, Any] = dict.fromkeys(columns(score))
    row.update({"arm": run.arm, "seed": run.seed, "state": run.state, f"target_{score.val}": target})
    if run.result is None:
        row["epochs"] = len(run.history) or None
        return row
    for when in ("best", "last"):
        for key in score.test:
            row[f"{key}_{when}"] = number(run.result[when], key)
    best_epoch = number(run.result["best"], "epoch")
    row["best_epoch"] = None if best_epoch is None else int(best_epoch) + 1
    row[f"{score.val}_best"] = _best_validation(run, score)
    row[f"{score.val}_last"] = number(run.history[-1], score.val) if run.history else None
    row.update({key: _exact(run.result, key) for key in WHOLE_RUN})
    row.update(
        {key: value for key, value in last_collapse(run, collapse_measures(score)).items() if key in row}
    )
    row["device"] = run.result.get("device")
    for entry in run.history:
        value = number(entry, score.val)
        if target is not None and value is not None and value >= target:
            row["target_epochs"] = entry["epoch"] + 1
            row["target_steps"] = _exact(entry, "step")
            row["target_seconds"] = number(entry, "train_time")
            break
    return row


def _best_validation(run: SeedRecord, score: Score) -> float | None:
    values = [value for row in run.history if (value := number(row, score.val)) is not None]
    return max(values, default=None)


def _exact(mapping: Mapping[str, Any], key: str) -> float | None:
    """A finite number that stays a whole one if it was."""
    return None if number(mapping, key) is None else mapping[key]
