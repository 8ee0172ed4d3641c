"""The frame of a head from its options, and in a few words."""

from __future__ import annotations

from typing import Any

from etfhead.frames import Frame, make_frame
from etfhead.frames.registry import frame_options

__all__ = ["choose_frame", "describe_frame"]

# K^2 d operations of a Gram matrix that print(model) may cost: a tenth of a second.
_GRAM_IN_PASSING = 2**28


def choose_frame(frame: str | Frame, in_features: int, num_classes: int, **options: Any) -> Frame:
    """A frame of these sizes: the given one, or by name with those of the options that it has.

    Raises:
        ValueError: If the frame is of other sizes, unknown, or does not exist for these, or if
            ``class_counts`` are among the options and it uses none.
    """
    if isinstance(frame, Frame) and "class_counts" in options:
        raise ValueError(
            f"class_counts: the frame is built already ({frame}); give them to make_frame instead"
        )
    if not isinstance(frame, Frame):
        sizes = {"num_classes": num_classes, "in_features": in_features}
        known = frame_options(frame, **sizes)
        if "class_counts" in options and "class_counts" not in known:
            raise ValueError(
                f"class_counts: frame={frame!r} does not use them; leave them out, or take 'orthogonal', "
                "'imbalanced_ce' or 'seli'"
            )
        return make_frame(frame, **sizes, **{name: options[name] for name in known if name in options})
    if (frame.num_classes, frame.in_features) != (num_classes, in_features):
        raise ValueError(f"frame: expected num_classes={num_classes}, in_features={in_features}, got {frame}")
    return frame


def describe_frame(frame: Frame) -> str:
    """The frame, with its largest cosine where that costs next to nothing."""
    closed_form = type(frame).coherence is not Frame.coherence
    if not closed_form and frame.num_classes**2 * frame.in_features > _GRAM_IN_PASSING:
        return f"frame={frame}"
    return f"frame={frame}, max_cosine={frame.coherence().max_cosine:.4g}"
