"""Text of users on its way to a terminal, which would obey an escape sequence in it."""

from __future__ import annotations

__all__ = ["printable", "shown"]

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def shown(text: object) -> str:
    r"""One line: names may hold line breaks, escape sequences, or bytes that are no characters.

    >>> shown("cat\n\x1b[2J")
    'cat\\n\\x1b[2J'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text)
    )


def printable(text: str) -> str:
    r"""Whole pages: line breaks stay, control characters are told.

    >>> printable("one\ntwo\x1b]0;title\x07")
    'one\ntwo\\x1b]0;title\\x07'
    """
    return text.translate(_CONTROLS)
