"""Frames by name."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Any

from etfhead.frames.assigned import AssignedFrame
from etfhead.frames.base import Frame, checked_size
from etfhead.frames.code import CodeFrame
from etfhead.frames.fitted import ClassMeansFrame, OrientedSimplexFrame
from etfhead.frames.imbalanced_ce import ImbalancedCEFrame
from etfhead.frames.orthogonal import OrthogonalFrame
from etfhead.frames.orthoplex import OrthoplexFrame
from etfhead.frames.regression import RegressionFrame
from etfhead.frames.seli import SeliFrame
from etfhead.frames.simplex import SimplexFrame
from etfhead.frames.union import UnionFrame

__all__ = ["FRAMES", "frame_options", "make_frame"]

_KINDS: tuple[type[Frame], ...] = (
    SimplexFrame,
    OrthoplexFrame,
    UnionFrame,
    CodeFrame,
    OrientedSimplexFrame,
    ClassMeansFrame,
    AssignedFrame,
    OrthogonalFrame,
    ImbalancedCEFrame,
    SeliFrame,
    RegressionFrame,
)
FRAMES: dict[str, type[Frame]] = {kind.name: kind for kind in _KINDS}

_AUTO = ("simplex", "orthoplex", "union")
_SIZES = ("num_classes", "in_features")


def _kind(name: str, num_classes: int, in_features: int) -> type[Frame]:
    if name == "auto":
        classes = checked_size("num_classes", num_classes, 2)
        width = checked_size("in_features", in_features, 1)
        name = "simplex" if classes <= width + 1 else "orthoplex" if classes <= 2 * width else "union"
    if name not in FRAMES:
        close = get_close_matches(str(name), FRAMES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"frame={name!r}: expected 'auto' or one of {', '.join(map(repr, FRAMES))}{hint}")
    return FRAMES[name]


def _parameters(kind: type[Frame]) -> dict[str, inspect.Parameter]:
    return {k: p for k, p in inspect.signature(kind).parameters.items() if k not in _SIZES}


def frame_options(name: str = "auto", *, num_classes: int, in_features: int) -> tuple[str, ...]:
    """Names of the options that :func:`make_frame` takes for these sizes.

    >>> frame_options(num_classes=10, in_features=64), frame_options(num_classes=1000, in_features=64)
    (('basis', 'seed'), ('signs', 'antipodal', 'seed'))
    """
    return tuple(_parameters(_kind(name, num_classes, in_features)))


def make_frame(
    name: str = "auto", *, num_classes: int, in_features: int, version: int = 1, **options: Any
) -> Frame:
    """Build a frame by name; ``auto`` chooses by the number of classes and the feature width.

    Args:
        name: ``auto`` or one of ``etfhead.frames.FRAMES``. ``auto`` is ``simplex`` wherever it exists
            (num_classes <= in_features + 1), ``orthoplex`` up to 2 in_features and ``union`` beyond. It
            leaves out an option that only the others of these three have, such as ``basis`` for a union.
        num_classes: K, at least 2.
        in_features: d.
        version: Version of the spec's language; this etfhead reads version 1.
        **options: Options of that frame, such as ``basis`` and ``seed``; with ``frame.state()`` among them, a
            frame that came from data.

    Returns:
        Frame: The frame; ``make_frame(**frame.spec(), **frame.state())`` builds it again.

    Raises:
        ValueError: If the spec is of a newer version, the name is unknown, an option does not belong to the
            frame or is missing, or the frame does not exist for these sizes.

    >>> frame = make_frame("auto", num_classes=10, in_features=64, basis="hadamard", seed=3)
    >>> frame == make_frame(**frame.spec())
    True
    """
    if checked_size("version", version, 1) > 1:
        raise ValueError(
            f"version={version}: spec of a newer etfhead; expected 1. Upgrade etfhead to build this frame"
        )
    kind = _kind(name, num_classes, in_features)
    known = _parameters(kind)
    if name == "auto":
        elsewhere = {option for other in _AUTO for option in _parameters(FRAMES[other])} - known.keys()
        options = {option: value for option, value in options.items() if option not in elsewhere}
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{unknown[0]}: not an option of frame={kind.name!r}; it has {', '.join(known)}")
    required = [option for option, parameter in known.items() if parameter.default is parameter.empty]
    if missing := [option for option in required if option not in options]:
        if missing[0] == "class_counts":
            raise ValueError(
                f"class_counts: frame={kind.name!r} follows the training samples of each class; give all "
                f"{num_classes} of them"
            )
        raise ValueError(
            f"{missing[0]}: frame={kind.name!r} is made from data and needs it; fit it (align_head does), or "
            "add frame.state() to the spec"
        )
    return kind(num_classes, in_features, **options)
