"""What the reports of a run and of a study share: the files of a folder, and lines for a terminal."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etfhead.experiment.files import write_bytes, write_json, write_text
from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.document import Block
from etfhead.experiment.report.html import render_html
from etfhead.experiment.report.markdown import render_markdown

__all__ = ["DOCUMENTS", "shorten", "terminal_text", "wrap", "write_files"]

DOCUMENTS = ("summary.csv", "summary.json", "report.md", "report.html")

_WIDTH = 100
_NAME_WIDTH = 22


def write_files(
    folder: Path,
    summary: Mapping[str, Any],
    blocks: Sequence[Block],
    *,
    title: str,
    columns: Sequence[str],
    pictures: Mapping[str, bytes],
    known: Sequence[str],
) -> Path:
    """Write the files of a report, each replaced as a whole; pictures that are not drawn any more go.

    Args:
        folder: Of the run or study.
        summary: Has the ``runs`` of ``summary.csv``.
        blocks: The report.
        title: Of the browser tab.
        columns: Of ``summary.csv``.
        pictures: PNG bytes by file name.
        known: Names of all pictures that such a report may have.

    Returns:
        Path of ``report.html``.

    Raises:
        OSError: The folder cannot be written; files already there stay whole.
    """
    write_json(folder / "summary.json", summary)
    write_text(folder / "summary.csv", _csv(summary["runs"], columns))
    for name in known:
        if name in pictures:
            write_bytes(folder / name, pictures[name])
        else:
            (folder / name).unlink(missing_ok=True)
    write_text(folder / "report.md", render_markdown(blocks))
    return write_text(folder / "report.html", render_html(blocks, title, pictures))


def terminal_text(lines: Sequence[str]) -> str:
    """Lines as one text; terminals and the tools behind a pipe expect the hyphen that they can search for."""
    return "\n".join(lines).replace(fmt.MINUS, "-").replace(fmt.MISSING, "-")


def shorten(name: str) -> str:
    """A name that leaves room for the figures beside it."""
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"


def wrap(text: str) -> list[str]:
    """Lines of a terminal."""
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
