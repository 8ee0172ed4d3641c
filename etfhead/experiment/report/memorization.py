"""Memorization and dilation of a training on noisy labels as the run recorded it.

The rows of ``metrics.jsonl`` hold these figures for the epochs where the training loop measured them, the
test figures stand in ``result.json``; a run without label noise has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from etfhead.experiment.report.records import RunRecords, SeedRecord, number
from etfhead.experiment.report.stats import paired_difference, spread_by_seed

__all__ = [
    "COMPARED",
    "MEASURED",
    "MEMORIZATION",
    "MEMORIZATION_COLUMNS",
    "MemorizationFigure",
    "add_memorization",
    "has_memorization",
    "last_memorization",
    "memorization_by_epoch",
]


@dataclass(frozen=True)
class MemorizationFigure:
    """One measure: its key in the run's files, its name, and what it is in one line."""

    key: str
    name: str
    meaning: str
    percent: bool = False


MEASURED = (
    MemorizationFigure(
        "md_memorized_fraction",
        "memorized",
        "share of wrongly labelled training images that the network names as they are labelled",
        percent=True,
    ),
    MemorizationFigure(
        "md_recovered_fraction",
        "recovered",
        "share of wrongly labelled training images that it names by their true class",
        percent=True,
    ),
    MemorizationFigure(
        "md_memorization",
        "memorization",
        "mean distance of a wrongly labelled image to the mean of the rightly labelled ones of its true "
        "class; grows with the scale of the features",
    ),
    MemorizationFigure(
        "md_memorization_relative",
        "relative memorization",
        "the same over the mean distance between two class means: compare networks by this",
    ),
    MemorizationFigure(
        "md_corruption_bias_relative",
        "corruption bias",
        "how far such an image has moved toward the mean of its wrong class: 0 not at all, 1 all the way",
    ),
    MemorizationFigure(
        "md_nc1_train_true", "NC1 train, true", "NC1 of training images, classes by true labels"
    ),
    MemorizationFigure(
        "md_nc1_train_observed", "NC1 train, observed", "by observed labels; zero when all is memorized"
    ),
    MemorizationFigure(
        "md_nc1_train_clean", "NC1 train, right ones", "of the rightly labelled training images alone"
    ),
    MemorizationFigure(
        "md_dilation", "dilation (validation)", "NC1 of the validation images by their true labels"
    ),
    MemorizationFigure(
        "md_dilation_relative",
        "relative dilation (validation)",
        "root mean square distance of a validation image to its class mean over the mean distance between "
        "two class means",
    ),
)
MEMORIZATION = (
    *MEASURED,
    MemorizationFigure("test_md_dilation_last", "dilation (test)", "NC1 of the test images, last epoch"),
    MemorizationFigure(
        "test_md_dilation_relative_last",
        "relative dilation (test)",
        "relative dilation of the test images, last epoch",
    ),
)
# Of which the section shows paired differences to the baseline; less is better in each.
COMPARED = (
    "md_memorized_fraction",
    "md_memorization_relative",
    "md_dilation",
    "md_dilation_relative",
    "test_md_dilation_last",
    "test_md_dilation_relative_last",
)
_MORE = ("md_memorization_sum", "md_separation", "md_corruption_bias", "md_noise_rate", "md_corrupted")
_MEASURED_KEYS = (*(figure.key for figure in MEASURED), *_MORE)

# Of the last measuring; md_time is the whole training's.
MEMORIZATION_COLUMNS = (
    "md_epoch",
    *_MEASURED_KEYS,
    "md_time",
    *(f"test_md_{key}_{when}" for key in ("dilation", "dilation_relative") for when in ("best", "last")),
    "val_true_top1_best",
    "val_true_top1_last",
)


def has_memorization(records: RunRecords) -> bool:
    """Whether any training of the run has measured it."""
    runs = (run for seeds in records.runs.values() for run in seeds.values())
    return any(run.measured(key, initial=True) for run in runs for key in ("md_dilation", "val_true_top1"))


def last_memorization(run: SeedRecord) -> dict[str, float | int | None]:
    """The figures of a finished training's last measuring, all of one epoch, and those of the test set.

    Args:
        run: One arm trained with one seed.

    Returns:
        dict: A value for each of :data:`MEMORIZATION_COLUMNS`, ``None`` where there is none.
    """
    row: dict[str, float | int | None] = dict.fromkeys(MEMORIZATION_COLUMNS)
    if run.result is None:
        return row
    measured = {key: run.measured(key, initial=True) for key in _MEASURED_KEYS}
    epoch = max((epoch for values in measured.values() for epoch in values), default=None)
    if epoch is not None:
        row["md_epoch"] = epoch
        row |= {key: values.get(epoch) for key, values in measured.items()}
        row["md_time"] = sum(run.measured("md_time", initial=True).values())
    for when in ("best", "last"):
        for key in ("dilation", "dilation_relative"):
            row[f"test_md_{key}_{when}"] = number(run.result[when], f"test_md_{key}")
        at = number(run.result[when], "epoch")
        true = run.measured("val_true_top1")
        row[f"val_true_top1_{when}"] = None if at is None else true.get(int(at) + 1)
    return row


def memorization_by_epoch(seeds: Mapping[int, SeedRecord]) -> list[dict[str, Any]]:
    """The figures of one arm over its finished seeds, one entry for each epoch measured, ascending.

    Args:
        seeds: Records by seed.

    Returns:
        list: ``epoch`` (0 = untrained) and under each figure's key ``n``, ``mean``, ``std`` and ``values`` by
        seed, ``None`` where no seed has it.
    """
    found: dict[int, dict[str, dict[int, float]]] = {}
    for seed, run in seeds.items():
        for key in _MEASURED_KEYS if run.finished else ():
            for epoch, value in run.measured(key, initial=True).items():
                found.setdefault(epoch, {}).setdefault(key, {})[seed] = value
    return [
        {"epoch": epoch, **{key: spread_by_seed(figures.get(key, {})) for key in _MEASURED_KEYS}}
        for epoch, figures in sorted(found.items())
    ]


def add_memorization(summary: dict[str, Any], records: RunRecords) -> None:
    """Add the figures to a summary, if any training has them; others stay as they are.

    Each row of ``runs`` gets :data:`MEMORIZATION_COLUMNS`, each arm these ``figures`` and
    ``memorization_by_epoch``, and the summary ``memorization_differences`` by contender and figure.

    Args:
        summary: With ``runs`` and ``arms``.
        records: What it was made from.
    """
    if not has_memorization(records):
        return
    for row in summary["runs"]:
        row |= last_memorization(records.runs[row["arm"]][row["seed"]])
    arms = summary["arms"]
    for arm, entry in arms.items():
        done = [row for row in summary["runs"] if row["arm"] == arm and row["state"] == "finished"]
        for key in MEMORIZATION_COLUMNS:
            values = {row["seed"]: row[key] for row in done if row[key] is not None}
            entry["figures"][key] = spread_by_seed(values)
        entry["memorization_by_epoch"] = memorization_by_epoch(records.runs[arm])
    summary["memorization_differences"] = _differences(arms, summary["baseline"])


def _differences(arms: Mapping[str, Any], baseline: str) -> dict[str, dict[str, Any]]:
    """Paired differences to the baseline by contender and figure; ``None`` without a common seed."""
    found: dict[str, dict[str, Any]] = {}
    for arm, entry in arms.items():
        if arm == baseline:
            continue
        found[arm] = {}
        for key in COMPARED:
            ours, theirs = entry["figures"][key], arms[baseline]["figures"][key]
            pair = paired_difference(ours["values"], theirs["values"]) if ours and theirs else None
            found[arm][key] = None if pair is None else asdict(pair)
    return found
