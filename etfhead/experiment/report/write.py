"""The report of a run folder: page, Markdown, pictures, tables of figures, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.class_frequency import FREQUENCY_COLUMNS
from etfhead.experiment.report.document import Table
from etfhead.experiment.report.markdown import text_table
from etfhead.experiment.report.memorization import MEMORIZATION_COLUMNS
from etfhead.experiment.report.ood import OOD_COLUMNS
from etfhead.experiment.report.output import DOCUMENTS, shorten, terminal_text, wrap, write_files
from etfhead.experiment.report.records import NOT_STARTED, read_run
from etfhead.experiment.report.rows import columns
from etfhead.experiment.report.score import score_of_summary
from etfhead.experiment.report.summary import summarize_records

__all__ = ["FILES", "format_table", "write_report"]

PICTURES = (
    "accuracy_epoch.png",
    "accuracy_time.png",
    "score_epoch.png",
    "score_time.png",
    "loss_epoch.png",
    "collapse.png",
    "regression_collapse.png",
    "memorization.png",
    "features.png",
    "class_frequency.png",
    "tail_geometry.png",
    "reliability.png",
    "differences.png",
)
FILES = (*DOCUMENTS, *PICTURES)


def write_report(run_dir: str | Path) -> Path:
    """Write the report of a run, finished or not, into its folder.

    The files are :data:`FILES`; each is replaced as a whole, and pictures that an earlier report drew and
    this one cannot are removed.

    Args:
        run_dir: A folder written by ``etfhead run``.

    Returns:
        Path of ``report.html``.

    Raises:
        ValueError: ``run_dir`` is no run folder, or its ``recipe.yaml`` is damaged.
        OSError: The folder cannot be written; files already there stay whole.
    """
    from etfhead.experiment.report.plots import draw
    from etfhead.experiment.report.sections import build_report

    records = read_run(run_dir)
    summary = summarize_records(records)
    pictures = draw(records, summary)
    return write_files(
        records.folder,
        summary,
        build_report(records, summary, pictures),
        title=f"{summary['name']}: report",
        columns=_columns(summary),
        pictures=pictures,
        known=PICTURES,
    )


def format_table(summary: Mapping[str, Any]) -> str:
    """The comparison as plain text for a terminal of 100 columns, ending with the verdict.

    Args:
        summary: What :func:`~etfhead.experiment.report.summary.summarize` returned.
    """
    score = score_of_summary(summary)
    second, second_name = score.second
    rows = []
    for arm, entry in summary["arms"].items():
        figures = entry["figures"]
        rows.append(
            [
                shorten(arm),
                fmt.mean_std(figures[score.primary]),
                *_against_baseline(summary, entry, arm),
                _mean(figures[score.last], ".2f"),
                _mean(figures[f"{second}_best"], ".2f"),
                _mean(figures["images_per_s"], ",.0f"),
                _mean(figures["params_head"], ",.0f"),
            ]
        )
    short = f"test {score.name} %" if score.key != "top1" else "test acc. %"
    header = ["arm", short, "diff.", "95 % interval", "last", second_name, "images/s", "head params"]
    seeds = ", ".join(str(seed) for seed in summary["seeds"])
    done = f"{summary['finished']} of {summary['expected']} trainings finished"
    lines = [
        f"{summary['name']}: {done}, seeds {seeds}",
        "",
        *text_table(Table(header, rows)),
        "",
        f"{'test acc.' if score.key == 'top1' else 'test'}: best validation epoch, mean ± std; diff.: points "
        "against the baseline, paired by seed;",
        "last: last epoch; head params: trained ones",
        "",
    ]
    lines += [line for note in summary["notes"] for line in wrap(f"Note: {note}.")]
    lines += [line for text in _unfinished(summary) for line in wrap(text)]
    if summary["notes"] or summary["unfinished"]:
        lines.append("")
    lines += wrap(summary["verdict"])
    return terminal_text(lines)


def _unfinished(summary: Mapping[str, Any]) -> list[str]:
    """One sentence a training that stopped, and one for all those that were never begun."""
    lines = []
    waiting: dict[str, list[str]] = {}
    for run in summary["unfinished"]:
        if run["state"] == NOT_STARTED:
            waiting.setdefault(run["arm"], []).append(str(run["seed"]))
        else:
            lines.append(f"Unfinished: {run['arm']}, seed {run['seed']}: {run['state']}.")
    if waiting:
        arms = "; ".join(f"{arm}, seed {', '.join(seeds)}" for arm, seeds in waiting.items())
        lines.append(f"Not started: {arms}.")
    return lines


def _against_baseline(summary: Mapping[str, Any], entry: Mapping[str, Any], arm: str) -> tuple[str, str]:
    if arm == summary["baseline"]:
        return "", "baseline"
    pair = entry["differences"][summary["primary"]]
    return fmt.signed(pair and pair["mean"]), fmt.interval(pair)


def _mean(figure: Mapping[str, Any] | None, spec: str) -> str:
    return fmt.MISSING if figure is None else format(figure["mean"], spec)


def _columns(summary: Mapping[str, Any]) -> list[str]:
    extra = (*MEMORIZATION_COLUMNS, *FREQUENCY_COLUMNS, *OOD_COLUMNS)
    return [*columns(score_of_summary(summary)), *(key for key in extra if key in summary["runs"][0])]
