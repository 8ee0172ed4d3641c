"""Render report blocks as GitHub-flavoured Markdown, and tables as plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

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

__all__ = ["escape", "render_markdown", "text_table"]


def render_markdown(blocks: Sequence[Block]) -> str:
    """One Markdown document; every text is escaped, so names cannot become markup."""
    return "\n\n".join(_render(block) for block in blocks) + "\n"


def escape(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line.

    >>> escape("a|b <script> *c* snake_case _d_")
    'a\\|b &lt;script&gt; \\*c\\* snake_case \\_d\\_'
    """
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    # An underscore inside a word is no emphasis, and escaping it there would only make the source ugly.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def text_table(table: Table, gap: str = "  ") -> list[str]:
    """Aligned lines of plain text: the header, a rule, the rows."""
    widths = [max(len(row[at]) for row in (table.header, *table.rows)) for at in range(len(table.header))]
    lines = [
        gap.join(
            cell.ljust(width) if at in table.left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (table.header, *table.rows)
    ]
    return [lines[0], gap.join("-" * width for width in widths), *lines[1:]]


def _render(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {escape(text)}"
        case Paragraph(text):
            return _paragraph(text)
        case Verdict(text, _):
            return f"**{escape(text)}**"
        case Bullets(items):
            return "\n".join(f"- {_paragraph(item)}" for item in items)
        case Links(items):
            return "\n".join(f"- [{escape(text)}]({quote(file)})" for text, file in items)
        case Code(text):
            return f"```sh\n{text}\n```"
        case Figure(file, alt, caption):
            return f"![{escape(alt)}]({file})\n\n{escape(caption)}"
        case Table():
            return _table(block)


def _paragraph(text: str) -> str:
    # A description that starts with "#", "-", "+" or "1." would turn into a heading or a list.
    return re.sub(r"^(#+|[-+=]|\d+[.)])", r"\\\1", escape(text))


def _table(table: Table) -> str:
    cells = [[escape(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *(len(row[at]) for row in cells)) for at in range(len(table.header))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if at in table.left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = [
        ":" + "-" * (width - 1) if at in table.left else "-" * (width - 1) + ":"
        for at, width in enumerate(widths)
    ]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])
