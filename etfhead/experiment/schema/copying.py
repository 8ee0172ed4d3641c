"""The text of a recipe's copy: under a name of its own, without what was measured with the original."""

from __future__ import annotations

import re
from typing import Any

import yaml

from etfhead.experiment.schema.description import COPIED
from etfhead.experiment.schema.dump import inline

__all__ = ["copied"]

# What a header says of the original's results and time; further lines of a remark are indented.
_MEASURED = re.compile(r"^# (?:Expect|Takes):.*\n(?:#[ \t]{2,}\S.*\n)*", re.MULTILINE)
_HEADER = re.compile(r"(?:[ \t]*(?:#.*)?\r?\n)*")


def copied(text: str, *, name: str | None, origin: str) -> str:
    r"""Rename a recipe, say where it is from, and leave out what its header says of results and time.

    All other lines stay as they are, comments included.

    Args:
        text: Of a recipe file that loads.
        name: Of the copy; None leaves the name as it is.
        origin: Name of the recipe that is copied.

    >>> text = "# Expect: 99 %\nname: a  # short\ndescription: on digits\n"
    >>> print(copied(text, name="b", origin="a"), end="")
    # Copied from a; the comments below were written for it.
    name: b  # short
    description: copied from a
    """
    values = {"description": f"{COPIED}{origin}"} | ({} if name is None else {"name": name})
    keys: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, node in reversed(keys.value):  # from the end, so that places before stay where they are
        if key.value in values:
            start, end = node.start_mark.index, node.end_mark.index
            after = re.search(r"\s*\Z", text[start:end])
            text = text[:start] + inline(values[key.value]) + (after[0] if after else "") + text[end:]
    return _without_measured(text, origin)


def _without_measured(text: str, origin: str) -> str:
    end = _HEADER.match(text).end()  # type: ignore[union-attr]  # matches nothing at all too
    header, count = _MEASURED.subn("", text[:end])
    if not count:
        return text
    line = "\r\n" if "\r\n" in text else "\n"
    return f"# Copied from {origin}; the comments below were written for it.{line}{header}{text[end:]}"
