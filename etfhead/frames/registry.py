"""Frames by name."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Any

from etfhead.frames.base import Frame
from etfhead.frames.simplex import SimplexFrame

__all__ = ["FRAMES", "make_frame"]

FRAMES: dict[str, type[Frame]] = {"simplex": SimplexFrame}


def make_frame(name: str = "auto", *, num_classes: int, in_features: int, **options: Any) -> Frame:
    """Build a frame by name; ``auto`` chooses by the number of classes and the feature width.

    Args:
        name: ``auto`` or one of ``etfhead.frames.FRAMES``. ``auto`` is ``simplex`` wherever it exists
            (num_classes <= in_features + 1).
        num_classes: K, at least 2.
        in_features: d.
        **options: Options of that frame, such as ``basis`` and ``seed``.

    Returns:
        Frame: The frame; ``make_frame(**frame.spec())`` builds it again.

    Raises:
        ValueError: If the name is unknown, an option does not belong to the frame, or the frame does not
            exist for these sizes.

    >>> frame = make_frame("auto", num_classes=10, in_features=64, basis="hadamard", seed=3)
    >>> frame == make_frame(**frame.spec())
    True
    """
    kind = FRAMES.get("simplex" if name == "auto" else name)
    if kind is None:
        close = get_close_matches(str(name), FRAMES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"frame={name!r}: expected 'auto' or one of {', '.join(map(repr, FRAMES))}{hint}")
    known = [
        name for name in inspect.signature(kind).parameters if name not in ("num_classes", "in_features")
    ]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{unknown[0]}: not an option of frame={kind.name!r}; it has {', '.join(known)}")
    return kind(num_classes, in_features, **options)
