"""The report of a folder, be it of one run or of a study."""

from __future__ import annotations

from pathlib import Path

from etfhead.experiment.report.study import format_study_table, write_study_report
from etfhead.experiment.report.study_summary import SETTINGS, is_study, summarize_study
from etfhead.experiment.report.summary import summarize
from etfhead.experiment.report.write import format_table, write_report

__all__ = ["format_folder", "write_folder"]


def write_folder(out: str | Path) -> Path:
    """Write the report of a run, or of a study and of all its settings.

    Args:
        out: A folder written by ``etfhead run``.

    Returns:
        Path of ``report.html``.

    Raises:
        ValueError: ``out`` is no such folder, or its ``recipe.yaml`` is damaged.
        OSError: The folder cannot be written.
    """
    if not is_study(out):
        return write_report(out)
    for recipe in sorted((Path(out) / SETTINGS).glob("*/recipe.yaml")):
        write_report(recipe.parent)
    return write_study_report(out)


def format_folder(out: str | Path) -> str:
    """The comparison, or the study, as plain text for a terminal.

    Args:
        out: A folder written by ``etfhead run``.
    """
    return format_study_table(summarize_study(out)) if is_study(out) else format_table(summarize(out))
