"""From a run folder to its report: tables, pictures and a verdict."""

from etfhead.experiment.report.summary import summarize
from etfhead.experiment.report.write import FILES, format_table, write_report

__all__ = ["FILES", "format_table", "summarize", "write_report"]
