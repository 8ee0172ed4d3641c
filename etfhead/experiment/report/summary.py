"""From a run folder to the numbers of its report: per arm and seed, paired with the baseline.

``summary.json`` is what :func:`summarize` returns. Its keys are stable; later versions may add some:

* ``schema``: 1. ``name``, ``description``, ``baseline``, ``primary`` (``test_top1_best``), ``confidence``.
* ``seeds``; ``finished`` and ``expected`` (numbers of trainings); ``test_images`` (null when unknown).
* ``comparisons`` (contenders that get a p-value), ``holm`` (whether verdicts are adjusted for them).
* ``target``: ``val_top1`` (percent, or null) and ``source`` (``recipe``, ``automatic`` or null).
* ``arms.<arm>``: ``settings`` (the arm's options), ``kind`` of its class vectors (``fixed``, ``following``
  the data without gradients, or ``learnable``), ``fixed`` (whether they are), ``seeds_finished``;
  ``figures.<figure>`` with ``n``, ``mean``, ``std``, ``values`` by seed; ``target`` with ``reached``,
  ``of`` and the medians ``epochs``, ``steps``, ``seconds`` (null: the median seed never reached it); and,
  except for the baseline, ``differences.<figure>`` and ``ratios.<figure>`` (``mean``, ``std``, ``low``,
  ``high``, ``p_value``, ``values``, ``above``, ``below``) and ``verdict`` (``outcome``, ``outcome_last``,
  ``p_value``, ``sentence``).
* ``arms.<arm>.val_top1_by_epoch``: one entry an epoch (0 = before training) with ``mean``, ``std``,
  ``values`` and the paired ``difference`` to the baseline (:mod:`~etfhead.experiment.report.by_epoch`).
* ``arms.<arm>.collapse_by_epoch``: one entry a measuring (0 = before training) with the figures of neural
  collapse (:mod:`~etfhead.experiment.report.collapse`); those of the last measuring, of epoch
  ``collapse_epoch``, are among ``figures``. ``collapse_nc4`` is a share from 0 to 1; ``collapse_time``, the
  seconds that all measuring took, is not part of ``train_time``.
* On noisy labels ``arms.<arm>.memorization_by_epoch``, more ``figures`` and ``memorization_differences``
  (:mod:`~etfhead.experiment.report.memorization`).
* On long tails more ``figures`` and ``differences`` (``test_top1_many_best`` and its like) and
  ``arms.<arm>.top1_by_rank`` (:mod:`~etfhead.experiment.report.class_frequency`).
* With one class an image ``arms.<arm>.reliability`` and more ``figures``
  (:mod:`~etfhead.experiment.report.reliability`); with ``ood_dataset`` also ``ood``, ``figures`` and
  ``differences`` of AUROC (:mod:`~etfhead.experiment.report.ood`).
* ``equal_loss``: heads at equal loss, paired (:func:`~etfhead.experiment.report.equal_loss.equal_loss`).
* ``runs``: one flat row per arm and seed, the columns of ``summary.csv``
  (:func:`~etfhead.experiment.report.rows.columns`).
* ``unfinished``: what is missing. ``notes``: what was left out, and what to know before relying on a verdict
  (:mod:`~etfhead.experiment.report.image_luck`). ``verdict``: the answer in one sentence.

On multi-label data ``top1`` is ``exact_match`` or ``map`` in every key, whichever is primary, ECE is missing
and the figures are those of :data:`~etfhead.experiment.report.score.MULTILABEL` and its like. On regression
data it is ``r2``, with ``nmse`` and ``mse`` in place of ECE; collapse is that of
:data:`~etfhead.experiment.report.regression_collapse.NRC`, and ``arms.<arm>.target_errors`` holds the mean
squared error of every target.

Accuracies and ECE are percentages, differences percentage points, times seconds, sizes bytes. Epochs are
counted from 1 here (``metrics.jsonl`` counts from 0). Figures ending in ``_best`` belong to the epoch with
the best validation accuracy, those ending in ``_last`` to the last epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etfhead.experiment.report import verdict
from etfhead.experiment.report.by_epoch import accuracy_by_epoch
from etfhead.experiment.report.class_frequency import add_class_frequency
from etfhead.experiment.report.collapse import COLLAPSE_COLUMNS, collapse_by_epoch
from etfhead.experiment.report.compare import compare
from etfhead.experiment.report.equal_loss import equal_loss
from etfhead.experiment.report.image_luck import image_luck
from etfhead.experiment.report.memorization import add_memorization
from etfhead.experiment.report.ood import add_ood
from etfhead.experiment.report.records import RunRecords, number, read_run
from etfhead.experiment.report.reliability import add_reliability
from etfhead.experiment.report.rows import (
    TARGET,
    WHOLE_RUN,
    collapse_columns,
    collapse_measures,
    run_row,
    validation_target,
)
from etfhead.experiment.report.score import Score, score_of_recipe
from etfhead.experiment.report.stats import ALPHA, HOLM_FROM, median_with_misses, spread_by_seed
from etfhead.experiment.report.tail_geometry import add_tail_geometry
from etfhead.experiment.report.target_errors import target_errors

__all__ = ["arm_kind", "summarize", "summarize_records"]


def summarize(run_dir: str | Path) -> dict[str, Any]:
    """Summarise a run folder, whether or not all its arms have finished.

    Args:
        run_dir: A folder written by ``etfhead run``.

    Returns:
        A JSON-able dictionary; the keys are listed at the top of this module.

    Raises:
        ValueError: ``run_dir`` is no run folder, or its ``recipe.yaml`` is damaged.
    """
    return summarize_records(read_run(run_dir))


def summarize_records(records: RunRecords) -> dict[str, Any]:
    """Summarise records that :func:`~etfhead.experiment.report.records.read_run` has already read."""
    recipe, baseline = records.recipe, records.recipe["baseline"]
    score = score_of_recipe(recipe)
    target, source = validation_target(records, score)
    rows = [run_row(run, target, score) for seeds in records.runs.values() for run in seeds.values()]
    arms = {arm: _arm(records, arm, rows, score) for arm in records.runs}
    comparisons = compare(arms, baseline, score)
    for arm, epochs in accuracy_by_epoch(records.runs, baseline, score.val).items():
        arms[arm][f"{score.val}_by_epoch"] = epochs
        arms[arm]["collapse_by_epoch"] = collapse_by_epoch(records.runs[arm], collapse_measures(score))
    summary: dict[str, Any] = {
        "schema": 1,
        "name": str(recipe.get("name") or records.folder.resolve().name),
        "description": str(recipe.get("description") or ""),
        "baseline": baseline,
        "primary": score.primary,
        "confidence": 1 - ALPHA,
        "test_images": _test_images(records),
        "seeds": list(recipe["seeds"]),
        "finished": sum(len(arm["seeds_finished"]) for arm in arms.values()),
        "expected": len(rows),
        "comparisons": comparisons,
        "holm": comparisons >= HOLM_FROM,
        "target": {score.val: target, "source": source},
        "arms": arms,
        "runs": rows,
        "unfinished": [
            {"arm": run.arm, "seed": run.seed, "state": run.state}
            for seeds in records.runs.values()
            for run in seeds.values()
            if not run.finished
        ],
        "notes": [*records.notes, *_device_notes(rows), *_data_notes(recipe)],
    }
    if score.regression:
        for arm, entry in arms.items():
            entry["target_errors"] = target_errors(records.runs[arm], records.data.get("class_names") or ())
    for arm, entry in arms.items():
        if arm != baseline:
            entry["verdict"]["sentence"] = verdict.contender_sentence(summary, arm)
    summary["notes"] += [*verdict.disagreements(summary), *image_luck(summary)]
    summary["verdict"] = verdict.overall_sentence(summary)
    add_memorization(summary, records)
    add_class_frequency(summary, records)
    add_tail_geometry(summary, records)
    add_reliability(summary, records)
    add_ood(summary, records)
    summary["equal_loss"] = equal_loss(summary)
    return summary


def _arm(records: RunRecords, arm: str, rows: list[dict[str, Any]], score: Score) -> dict[str, Any]:
    settings = {key: value for key, value in (records.recipe["arms"][arm] or {}).items() if value is not None}
    kind = arm_kind(settings)
    done = [row for row in rows if row["arm"] == arm and row["state"] == "finished"]
    figures = {
        key: spread_by_seed({row["seed"]: row[key] for row in done if row.get(key) is not None})
        for key in (*score.figures, *WHOLE_RUN, *(collapse_columns(score) or COLLAPSE_COLUMNS))
    }
    return {
        "settings": settings,
        "kind": kind,
        "fixed": kind == "fixed",
        "seeds_finished": [row["seed"] for row in done],
        "figures": figures,
        "target": {
            "reached": sum(row["target_epochs"] is not None for row in done),
            "of": len(done),
            **{key.removeprefix("target_"): median_with_misses([row[key] for row in done]) for key in TARGET},
        },
    }


def arm_kind(settings: Mapping[str, Any]) -> str:
    """What happens to the class vectors: nothing, they follow the data without gradients, or they train."""
    head = settings.get("head")
    if head in ("class_mean", "delta", "guided"):
        return "following"
    return (
        "fixed"
        if head in ("etf", "multilabel_etf", "regression") and not settings.get("low_rank")
        else "learnable"
    )


def _test_images(records: RunRecords) -> int | None:
    sizes = records.data.get("sizes")
    size = number(sizes, "test") if isinstance(sizes, Mapping) else None
    return int(size) if size is not None and size > 0 else None


def _data_notes(recipe: Mapping[str, Any]) -> list[str]:
    if recipe.get("dataset") not in ("synthetic", "multilabel_synthetic", "regression_synthetic"):
        return []
    return ["the images are synthetic: this run shows that the software works and says nothing about heads"]


def _device_notes(rows: list[dict[str, Any]]) -> list[str]:
    devices = sorted({str(row["device"]) for row in rows if row["device"]})
    if len(devices) < 2:
        return []
    return [f"trained on different devices ({', '.join(devices)}): speed, time and memory do not compare"]
