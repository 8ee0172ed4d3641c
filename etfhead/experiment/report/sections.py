"""What the report says, section by section, as markup-free blocks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from etfhead.experiment.report import result_tables
from etfhead.experiment.report.class_frequency import FREQUENCY_CAPTION, class_frequency
from etfhead.experiment.report.collapse_section import COLLAPSE_CAPTION, collapse
from etfhead.experiment.report.document import (
    Block,
    Bullets,
    Code,
    Figure,
    Heading,
    Paragraph,
    Table,
    Verdict,
)
from etfhead.experiment.report.equal_loss import heads_at_equal_loss
from etfhead.experiment.report.label_tables import label_sets
from etfhead.experiment.report.memorization_section import (
    FEATURES_CAPTION,
    MEMORIZATION_CAPTION,
    memorization,
)
from etfhead.experiment.report.ood import ood
from etfhead.experiment.report.records import RunRecords
from etfhead.experiment.report.regression_collapse import NRC_CAPTION, regression_collapse
from etfhead.experiment.report.reliability import RELIABILITY_CAPTION, reliability
from etfhead.experiment.report.score import Score, score_of_summary
from etfhead.experiment.report.setup_tables import (
    arm_options,
    data_table,
    environment_table,
    settings_table,
    started_with,
)
from etfhead.experiment.report.stats import ALPHA, HOLM_FROM, MIN_SEEDS
from etfhead.experiment.report.tail_geometry import TAIL_CAPTION, tail_geometry
from etfhead.experiment.report.target_errors import target_tables
from etfhead.experiment.report.verdict import overall_outcome

__all__ = ["build_report"]

_BAND = "Lines are means over the finished seeds; bands reach from the smallest to the largest seed."
_CUT = "Axes may leave out the first third of training, so that later differences show."
_LOSS_OF_CLASSES = "Heads with different scales can differ in loss without differing in"
_LOSS_OF_TARGETS = (
    "Half the squared error of standardised targets, summed over them, for every arm: also those that train "
    "on whitened targets."
)
_LEARNING_CURVES = (
    "accuracy_epoch.png",
    "accuracy_time.png",
    "score_epoch.png",
    "score_time.png",
    "loss_epoch.png",
)


def build_report(
    records: RunRecords, summary: Mapping[str, Any], pictures: Mapping[str, bytes]
) -> list[Block]:
    """All blocks of the report, verdict first."""
    blocks: list[Block] = [
        Heading(summary["name"], level=1),
        Verdict(_sentence_case(summary["verdict"]), overall_outcome(summary)),
    ]
    if summary["description"]:
        blocks.append(Paragraph(summary["description"]))
    if summary["notes"]:
        blocks += [
            Heading("Before you rely on it", 3),
            Bullets([_sentence_case(note) for note in summary["notes"]]),
        ]
    if summary["unfinished"]:
        missing = [[run["arm"], str(run["seed"]), run["state"]] for run in summary["unfinished"]]
        blocks += [
            Heading("Unfinished trainings"),
            Paragraph(
                "They are left out of every mean and difference. etfhead run with --resume finishes them."
            ),
            Table(["arm", "seed", "state"], missing, frozenset({0, 2})),
        ]
    score = score_of_summary(summary)
    blocks += result_tables.accuracy(summary)
    blocks += result_tables.differences(summary)
    blocks += _figures(score, pictures, "differences.png")
    blocks += heads_at_equal_loss(summary)
    blocks += label_sets(summary)
    blocks += class_frequency(summary, records.data, _figures(score, pictures, "class_frequency.png"))
    blocks += reliability(summary, _figures(score, pictures, "reliability.png"))
    blocks += ood(summary)
    blocks += target_tables(summary)
    curves = _figures(score, pictures, *_LEARNING_CURVES)
    if curves:
        blocks += [Heading("Learning curves"), *curves]
    if score.regression:
        blocks += regression_collapse(summary, _figures(score, pictures, "regression_collapse.png"))
    else:
        blocks += collapse(summary, _figures(score, pictures, "collapse.png"))
    shown = (_figures(score, pictures, name) for name in ("memorization.png", "features.png"))
    blocks += memorization(summary, *shown)
    blocks += tail_geometry(summary, _figures(score, pictures, "tail_geometry.png"))
    blocks += result_tables.by_epoch(summary)
    blocks += result_tables.way_to_target(summary)
    blocks += result_tables.cost(summary)
    blocks += result_tables.every_seed(summary)
    blocks += _setup(records)
    blocks += [Heading("How to read this"), Bullets(_reading(summary))]
    return blocks + _reproduce(records)


def _captions(score: Score) -> dict[str, tuple[str, str]]:
    against_epoch = (f"Validation {score.name} against epoch", f"{_BAND} {_CUT}")
    against_time = (
        f"Validation {score.name} against training time",
        f"Validation and start-up are not counted. {_BAND} {_CUT}",
    )
    return {
        "differences.png": (
            f"Paired differences in test {score.name} with 95 % intervals, one row per contender",
            "Large marks are means, small ticks single seeds, lines 95 % intervals (an arrow where one "
            "leaves the picture). Right of zero the contender is better.",
        ),
        "accuracy_epoch.png": against_epoch,
        "accuracy_time.png": against_time,
        "score_epoch.png": against_epoch,
        "score_time.png": against_time,
        "loss_epoch.png": (
            "Validation loss against epoch",
            f"{_BAND} {_CUT} {_LOSS_OF_TARGETS if score.regression else f'{_LOSS_OF_CLASSES} {score.name}.'}",
        ),
        "collapse.png": COLLAPSE_CAPTION,
        "regression_collapse.png": NRC_CAPTION,
        "memorization.png": MEMORIZATION_CAPTION,
        "features.png": FEATURES_CAPTION,
        "class_frequency.png": FREQUENCY_CAPTION,
        "tail_geometry.png": TAIL_CAPTION,
        "reliability.png": RELIABILITY_CAPTION,
    }


def _figures(score: Score, pictures: Mapping[str, bytes], *names: str) -> list[Block]:
    captions = _captions(score)
    figures = [(name, *captions[name]) for name in names if name in pictures]
    return [Figure(name, alt, f"{alt}. {caption}") for name, alt, caption in figures]


def _setup(records: RunRecords) -> list[Block]:
    header, rows, shared = arm_options(records.recipe["arms"])
    data_notes = records.data.get("notes")
    blocks: list[Block] = [
        Heading("Arms"),
        Paragraph(
            "The arms differ in these options and in nothing else (–: not given, or the head has none such)."
            + (f" All that have them share {', '.join(shared)}." if shared else "")
        ),
        Table(header, rows, frozenset(range(len(header)))),
        Heading("Budget and setup"),
        settings_table(records.recipe, records.data),
    ]
    for title, table in (
        ("Data", data_table(records.data)),
        ("Environment", environment_table(records.environment)),
    ):
        if table is not None:
            blocks += [Heading(title, 3), table]
        if title == "Data" and isinstance(data_notes, list) and data_notes:
            blocks.append(Bullets([str(note) for note in data_notes]))
    return blocks


def _reading(summary: Mapping[str, Any]) -> list[str]:
    score = score_of_summary(summary)
    items = [
        "Pairing: arms of one seed share the initial weights of everything but the head, the order of the "
        "images and their augmentation. What is judged is the difference within a seed.",
        f"Interval: Student's t at {100 * (1 - ALPHA):.0f} % for the mean difference over seeds. It covers "
        "the luck of initialisation and data order for this data and this split, not the luck of which "
        "images are in the test set; with few seeds it is wide.",
        f"Verdict: helped or hurt only when the interval of the primary figure (test {score.name} at the "
        f"best validation epoch) leaves out zero, with at least {MIN_SEEDS} common seeds. 'No measurable "
        "difference' is no proof of equality: the interval says how large a difference the data still allow.",
        "Selection: the best epoch is chosen on the validation split, never on the test set. The test set is "
        "read once per training, after its end, for the best and for the last weights.",
    ]
    if score.multilabel:
        tuned = "exact match" if score.key == "exact_match" else "F1 over all labels (OF1)"
        items.append(
            f"Decisions: each arm's threshold is the one with the best {tuned} on the validation split, "
            "found exactly and anew after each epoch; the prototypes of label sets are fitted to the same "
            "images. The test split is decided with what validation gave for the same weights."
        )
    if summary["comparisons"] > 1:
        items.append(_several(summary))
    return items


def _several(summary: Mapping[str, Any]) -> str:
    text = (
        f"Several comparisons: {summary['comparisons']} contenders meet one baseline. The intervals shown "
        "are not adjusted for that; "
    )
    if summary["holm"]:
        return text + "the p-values and verdicts are (Holm's method)."
    chance = 100 * ALPHA * summary["comparisons"]
    return text + (
        f"nor are the verdicts (they are from {HOLM_FROM} comparisons on), so the chance of at least one "
        f"false alarm is up to {chance:.0f} %."
    )


def _reproduce(records: RunRecords) -> list[Block]:
    blocks: list[Block] = [Heading("How to reproduce")]
    if command := started_with(records.environment):
        blocks += [Paragraph("This run was last started with"), Code(command)]
    folder = shlex.quote(records.folder.resolve().name)
    blocks += [
        Paragraph("The recipe beside this report is complete; from the folder above it, repeat the run with"),
        Code(
            f"etfhead run {folder}/recipe.yaml --out {shlex.quote(records.folder.resolve().name + '-again')}"
        ),
    ]
    return blocks


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith(("the ", "no ", "against ")) else text
