"""The report of a study: page, Markdown, pictures, tables of figures, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etfhead.experiment.report import study_tables as tables
from etfhead.experiment.report.document import Table
from etfhead.experiment.report.markdown import text_table
from etfhead.experiment.report.output import DOCUMENTS, shorten, terminal_text, wrap, write_files
from etfhead.experiment.report.study_figures import STUDY_FIGURES, StudyFigure
from etfhead.experiment.report.study_summary import read_study, summarize_study_records
from etfhead.experiment.report.study_verdict import equal_loss_sentence

__all__ = ["STUDY_FILES", "draw_study", "format_study_table", "write_study_report"]

_PICTURES = ("study.png", "study_differences.png", "study_figures.png")
STUDY_FILES = (*DOCUMENTS, *_PICTURES)

_ACROSS = 5  # settings beside each other in a terminal of 100 columns


def write_study_report(out: str | Path) -> Path:
    """Write the report of a study, finished or not, into its folder; those of its settings stay as they are.

    The files are :data:`STUDY_FILES`; each is replaced as a whole, and pictures that an earlier report drew
    and this one cannot are removed.

    Args:
        out: A folder written by ``etfhead run`` from a recipe with settings.

    Returns:
        Path of ``report.html``.

    Raises:
        ValueError: ``out`` is no such folder, or its ``recipe.yaml`` is damaged.
        OSError: The folder cannot be written; files already there stay whole.
    """
    from etfhead.experiment.report.plot_style import png
    from etfhead.experiment.report.study_sections import build_study_report

    study = read_study(out)
    summary = summarize_study_records(study)
    pictures = {name: png(figure) for name, figure in draw_study(summary).items()}
    return write_files(
        study.folder,
        summary,
        build_study_report(study, summary, pictures),
        title=f"{summary['name']}: study",
        columns=_columns(summary),
        pictures=pictures,
        known=_PICTURES,
    )


def draw_study(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures behind the pictures, by file name: those that the data allow.

    Args:
        summary: What :func:`~etfhead.experiment.report.study_summary.summarize_study` returned.
    """
    from etfhead.experiment.report.dotplot import draw_study_differences
    from etfhead.experiment.report.study_lines import draw_against_settings

    drawn = {
        "study_differences.png": draw_study_differences(summary),
        "study_figures.png": draw_against_settings(summary, STUDY_FIGURES),
    }
    if summary["primary"] is not None:
        key = str(summary["primary"]).removesuffix("_best") + "_last"
        last = StudyFigure(key, f"test {tables.score_name(summary)}, last epoch (%)")
        drawn["study.png"] = draw_against_settings(summary, [last])
    return {name: figure for name, figure in drawn.items() if figure is not None}


def format_study_table(summary: Mapping[str, Any]) -> str:
    """The study as plain text for a terminal of 100 columns, ending with the verdict.

    Args:
        summary: What :func:`~etfhead.experiment.report.study_summary.summarize_study` returned.
    """
    done = f"{summary['finished']} of {summary['expected']} trainings finished"
    seeds = ", ".join(str(seed) for seed in summary["seeds"])
    lines = [f"{summary['name']}: {len(summary['settings'])} settings, {done}, seeds {seeds}", ""]
    for when, words in (("best", "best validation epoch"), ("last", "last epoch")):
        lines.append(f"Test {tables.score_name(summary)} (%), {words}, mean ± std:")
        for part in _across(tables.score_table(summary, when)):
            lines += [*text_table(part), ""]
    lines += [line for note in summary["notes"] for line in wrap(f"Note: {note}.")]
    for setting, one in summary["settings"].items():
        if one["state"] != "finished":
            lines += wrap(f"Unfinished: setting {setting}: {one['state']}.")
    if lines[-1]:
        lines.append("")
    lines += wrap(summary["verdict"])
    if (sentence := equal_loss_sentence(summary)) is not None:
        lines += wrap(sentence)
    return terminal_text(lines)


def _across(table: Table) -> list[Table]:
    """The table in parts that fit a terminal."""
    shown = range(1, len(table.header), _ACROSS)
    rows = [table.header, *table.rows]
    parts = [[[shorten(row[0]), *map(_short_cell, row[at : at + _ACROSS])] for row in rows] for at in shown]
    return [Table(part[0], part[1:]) for part in parts]


def _short_cell(text: str) -> str:
    return text if len(text) <= 14 else text[:13] + "…"


def _columns(summary: Mapping[str, Any]) -> list[str]:
    """Settings with other metrics add columns."""
    return list(dict.fromkeys(key for row in sorted(summary["runs"], key=len, reverse=True) for key in row))
