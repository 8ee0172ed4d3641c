"""The building blocks of a report, free of any markup; `markdown` and `html` each render them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Block", "Bullets", "Code", "Figure", "Heading", "Links", "Paragraph", "Table", "Verdict"]


@dataclass(frozen=True)
class Heading:
    """A section title; level 1 is the report's own."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Verdict:
    """The answer of the report and what kind of answer it is, for its colour."""

    text: str
    outcome: str


@dataclass(frozen=True)
class Bullets:
    """A list of short statements."""

    items: Sequence[str]


@dataclass(frozen=True)
class Links:
    """A list of text and the file it leads to, relative to the report's folder."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """A command to copy."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A picture in the run folder with a description for those who cannot see it."""

    file: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of plain text; ``left`` names the columns that hold words, all others are right-aligned."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})


Block = Heading | Paragraph | Verdict | Bullets | Links | Code | Figure | Table
