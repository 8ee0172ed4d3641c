"""What a field of a recipe says beside its type: its comment in YAML, its heading, its bounds."""

from __future__ import annotations

from typing import Any

__all__ = ["knob"]


def knob(text: str, *, group: str | None = None, **bounds: float) -> dict[str, Any]:
    """A field's comment in YAML, the heading it opens (an arm: who has the option), its bounds."""
    return {"help": text, "group": group, "bounds": bounds}
