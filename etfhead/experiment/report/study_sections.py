"""What a study's report says, section by section, as markup-free blocks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from etfhead.experiment.report import study_tables as tables
from etfhead.experiment.report.document import (
    Block,
    Bullets,
    Code,
    Figure,
    Heading,
    Links,
    Paragraph,
    Table,
    Verdict,
)
from etfhead.experiment.report.setup_tables import arm_options, environment_table, started_with
from etfhead.experiment.report.stats import ALPHA, HOLM_FROM, MIN_SEEDS
from etfhead.experiment.report.study_summary import SETTINGS, StudyRecords
from etfhead.experiment.report.study_verdict import equal_loss_sentence, study_outcome

__all__ = ["build_study_report"]

_EPOCHS = {"best": "best validation epoch", "last": "last epoch"}


def build_study_report(
    study: StudyRecords, summary: Mapping[str, Any], pictures: Mapping[str, bytes]
) -> list[Block]:
    """All blocks of the report, verdict first."""
    name, baseline = tables.score_name(summary), summary["baseline"]
    blocks: list[Block] = [
        Heading(summary["name"], level=1),
        Verdict(summary["verdict"], study_outcome(summary)),
    ]
    if (sentence := equal_loss_sentence(summary)) is not None:
        blocks.append(Paragraph(sentence))
    if summary["description"]:
        blocks.append(Paragraph(summary["description"]))
    if summary["notes"]:
        blocks += [Heading("Before you rely on it", 3), Bullets(summary["notes"])]
    blocks += [Heading("Settings"), tables.settings_table(summary), *_links(summary)]
    blocks += [Heading("Verdict by setting", 3), Bullets(_by_setting(summary))]
    blocks += _unfinished(summary)
    blocks += _figures(pictures, name, "study.png")
    text = f"Test {name} in percent, mean ± sample standard deviation over seeds."
    blocks += [Heading(_title(name)), Paragraph(text)]
    for when, words in _EPOCHS.items():
        blocks += [Heading(f"At the {words}", 3), tables.score_table(summary, when)]
    if len(summary["arms"]) > 1:
        blocks += _differences(summary, name, baseline)
        blocks += _figures(pictures, name, "study_differences.png")
    blocks += _equal_loss(summary)
    more = _figures(pictures, name, "study_figures.png")
    if more:
        blocks += [Heading("Other figures against the settings"), *more]
    blocks += _setup(study)
    blocks += [Heading("How to read this"), Bullets(_reading(name))]
    return blocks + _reproduce(study)


def _links(summary: Mapping[str, Any]) -> list[Block]:
    started = [setting for setting, one in summary["settings"].items() if one["summary"] is not None]
    if not started:
        return []
    items = [(f"Report of {setting}", f"{SETTINGS}/{setting}/report.html") for setting in started]
    text = "Each setting has a report of its own, with its learning curves, costs and data:"
    return [Paragraph(text), Links(items)]


def _by_setting(summary: Mapping[str, Any]) -> list[str]:
    return [
        f"{setting}: {'not started.' if one['summary'] is None else one['summary']['verdict']}"
        for setting, one in summary["settings"].items()
    ]


def _unfinished(summary: Mapping[str, Any]) -> list[Block]:
    """Trainings that stopped, each; those never begun, by setting."""
    if not summary["unfinished"]:
        return []
    waiting: dict[tuple[str, str], list[str]] = {}
    for run in summary["unfinished"]:
        place = f"{run['arm']}, seed {run['seed']}"
        waiting.setdefault((run["setting"], run["state"]), []).append(place)
    arms = len(summary["arms"]) * len(summary["seeds"])
    rows = [
        [setting, state, "all" if len(places) == arms else "; ".join(places)]
        for (setting, state), places in waiting.items()
    ]
    text = "They are left out of every mean and difference. etfhead run with --resume finishes them."
    table = Table(["setting", "state", "trainings"], rows, frozenset(range(3)))
    return [Heading("Unfinished trainings"), Paragraph(text), table]


def _differences(summary: Mapping[str, Any], name: str, baseline: str) -> list[Block]:
    text = (
        f"Test {name} of the contender minus that of {baseline} in the same setting, in percentage points, "
        "paired by seed, with the 95 % interval."
    )
    blocks: list[Block] = [Heading(f"Paired differences to {baseline}"), Paragraph(text)]
    for when, words in _EPOCHS.items():
        blocks += [Heading(f"At the {words}", 3), tables.difference_table(summary, when)]
    blocks += [Heading("Verdicts", 3)]
    for when, words in _EPOCHS.items():
        blocks += [
            Paragraph(f"At the {words}; the last columns count settings."),
            tables.verdict_table(summary, when),
        ]
    return blocks


def _equal_loss(summary: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for when, words in _EPOCHS.items():
        table = tables.equal_loss_table(summary, when)
        if table is not None:
            blocks += [Heading(f"At the {words}", 3), table]
    if not blocks:
        return []
    text = (
        "Every fixed or following head minus the learnable head (head: linear) that is trained with the same "
        "loss, in percentage points, paired by seed, with the 95 % interval. Seeds above and below are "
        "summed over settings, and the outcomes are counted over settings."
    )
    return [Heading("Heads at equal loss"), Paragraph(text), *blocks]


def _figures(pictures: Mapping[str, bytes], name: str, *files: str) -> list[Block]:
    bars = "Marks are means over the finished seeds, bars one sample standard deviation each way."
    heads = "Learnable heads: dashed, squares; fixed: solid, circles; following: dash-dotted, triangles."
    captions = {
        "study.png": (f"Test {name} at the last epoch against the settings", f"{bars} {heads}"),
        "study_differences.png": (
            f"Paired differences in test {name} with 95 % intervals, one panel a setting",
            "Large marks are means, small ticks single seeds, lines 95 % intervals (an arrow where one "
            "leaves the picture). Right of zero the contender is better. Each panel has its own scale.",
        ),
        "study_figures.png": (
            "Other figures of the runs against the settings, as they were at the last measuring",
            f"{bars} {heads} Where one figure stands against another, a line joins the settings in the "
            "recipe's order.",
        ),
    }
    return [Figure(file, captions[file][0], ". ".join(captions[file])) for file in files if file in pictures]


def _setup(study: StudyRecords) -> list[Block]:
    header, rows, shared = arm_options(study.recipe["arms"])
    text = (
        "The arms of every setting differ in these options and in nothing else (–: not given, or the head "
        "has none such)."
    )
    text += f" All that have them share {', '.join(shared)}." if shared else ""
    blocks: list[Block] = [
        Heading("Arms"),
        Paragraph(text),
        Table(header, rows, frozenset(range(len(header)))),
    ]
    environment = environment_table(study.environment)
    return blocks if environment is None else [*blocks, Heading("Environment", 3), environment]


def _reading(name: str) -> list[str]:
    return [
        "Settings: each is a complete comparison of its own; no mean is taken over settings, because their "
        "differences need not be alike.",
        "Pairing: arms of one seed share the initial weights of everything but the head, the order of the "
        "images and their augmentation. What is judged is the difference within a seed.",
        f"Verdict: helped or hurt only when the {100 * (1 - ALPHA):.0f} % interval of the difference in test "
        f"{name} leaves out zero, with at least {MIN_SEEDS} common seeds; from {HOLM_FROM} comparisons "
        "within a setting on, it is adjusted for them (Holm's method), and the intervals shown are not. "
        "Nothing is adjusted for the number of settings: expect a false alarm now and then.",
        "'No measurable difference' is no proof of equality: the interval says how large a difference the "
        "data still allow.",
        "The best epoch is chosen on the validation split, never on the test set. The last epoch is what "
        "training ends with when nobody chooses.",
    ]


def _reproduce(study: StudyRecords) -> list[Block]:
    blocks: list[Block] = [Heading("How to reproduce")]
    if command := started_with(study.environment):
        blocks += [Paragraph("This study was last started with"), Code(command)]
    folder = study.folder.resolve().name
    again = f"etfhead run {shlex.quote(folder)}/recipe.yaml --out {shlex.quote(folder + '-again')}"
    text = "The recipe beside this report is complete; from the folder above it, repeat the study with"
    return [*blocks, Paragraph(text), Code(again)]


def _title(name: str) -> str:
    return name if name == "mAP" else name[:1].upper() + name[1:]
