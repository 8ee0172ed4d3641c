"""From a run folder to its report: tables, pictures and a verdict."""

from etfhead.experiment.report.folder import format_folder, write_folder
from etfhead.experiment.report.study import STUDY_FILES, format_study_table, write_study_report
from etfhead.experiment.report.study_summary import summarize_study
from etfhead.experiment.report.summary import summarize
from etfhead.experiment.report.write import FILES, format_table, write_report

__all__ = [
    "FILES",
    "STUDY_FILES",
    "format_folder",
    "format_study_table",
    "format_table",
    "summarize",
    "summarize_study",
    "write_folder",
    "write_report",
    "write_study_report",
]
