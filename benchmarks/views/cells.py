"""What every view is made of: a result file, a Markdown table, and numbers with their spread."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common
from etfhead.experiment.report.document import Table
from etfhead.experiment.report.summary import arm_kind
from etfhead.experiment.report.verdict import overall_sentence

__all__ = ["interval", "load", "markdown", "middle", "paired", "rounded", "spread", "table", "verdict"]


def load(name: str) -> Any:
    """The results of a file."""
    return json.loads((common.RESULTS / f"{name}.json").read_text())["results"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Markdown: names, the first columns, to the left, a last one without a title too; numbers right."""
    sides = ["---"] * names + ["---:" if title else "---" for title in header[names:]]
    lines = [header, sides, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(shown: Table, names: int = 1) -> str:
    """A report's table, the names of arms in its first columns as code."""
    rows = [[*(re.sub(r"^(\S+)", r"`\1`", cell) for cell in row[:names]), *row[names:]] for row in shown.rows]
    return table(list(shown.header), rows, names)


def verdict(summary: Mapping[str, Any]) -> str:
    """The stored figures in today's words; files from before ``kind`` tell it by the arms' settings."""
    arms = {arm: {"kind": arm_kind(entry["settings"]), **entry} for arm, entry in summary["arms"].items()}
    return overall_sentence({**summary, "arms": arms})


def spread(figure: Mapping[str, Any] | None, digits: int) -> str:
    """Mean and standard deviation over seeds; one seed has no deviation."""
    if figure is None:
        return ""
    deviation = "" if figure["std"] is None else f" ± {figure['std']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{deviation}"


def interval(difference: Mapping[str, Any] | None, digits: int) -> str:
    """The interval of a paired difference, with a space before it; nothing where there is none."""
    if difference is None or difference["low"] is None:
        return ""
    return f" [{difference['low']:+.{digits}f}, {difference['high']:+.{digits}f}]"


def paired(difference: Mapping[str, Any] | None, digits: int) -> str:
    """A paired difference with its interval; nothing where there is none."""
    return "" if difference is None else f"{difference['mean']:+.{digits}f}{interval(difference, digits)}"


def middle(quarter: Mapping[str, float], digits: int) -> str:
    """Median and quartiles."""
    return f"{quarter['median']:.{digits}f} [{quarter['q1']:.{digits}f}, {quarter['q3']:.{digits}f}]"


def rounded(value: float) -> str:
    """Three digits, as many as a busy machine allows."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
