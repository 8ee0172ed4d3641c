"""Which options an arm's head and loss have, and which contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etfhead.experiment.field_error import FieldError

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Arm

__all__ = ["HEAD_OPTIONS", "check_arm", "has_basis", "is_oriented"]

_ANY_HEAD = ("neck", "orient", "exponent")
_SCALED = (*_ANY_HEAD, "scale", "learn_scale")
HEAD_OPTIONS = {
    "linear": _ANY_HEAD,
    "cosine": _SCALED,
    "etf": (*_SCALED, "frame", "basis", "normalize", "low_rank", "fused"),
    "class_mean": (*_SCALED, "fused", "momentum", "centre", "repel"),
    "delta": (*_SCALED, "fused", "rate"),
    "guided": (*_SCALED, "basis", "normalize", "momentum", "every"),
}


def is_oriented(arm: Arm) -> bool:
    """Whether the arm's class vectors start from class means of the training images."""
    return arm.orient not in (None, "none")


def has_basis(arm: Arm) -> bool:
    """Whether the arm's frame is built on an orthonormal basis that can be chosen."""
    return "basis" in HEAD_OPTIONS[arm.head] and arm.frame not in ("union", "code", "class_means")


def check_arm(arm: Arm) -> None:
    """Refuse an option that the arm's head or loss does not have.

    Raises:
        FieldError: If an option would be ignored, or the loss does not fit the head.
    """
    allowed = HEAD_OPTIONS.get(arm.head, ())
    for option in dict.fromkeys(option for options in HEAD_OPTIONS.values() for option in options):
        if getattr(arm, option) is not None and option not in allowed:
            owners = [head for head, options in HEAD_OPTIONS.items() if option in options]
            raise FieldError(
                (option,),
                f"head: {arm.head} has no such option; remove it or use head: {' or '.join(owners)}",
            )
    if arm.class_balanced is not None and arm.loss != "dot_regression":
        raise FieldError(("class_balanced",), "only loss: dot_regression has this option; remove it")
    if arm.frame == "class_means" and not is_oriented(arm):
        raise FieldError(("frame",), "class_means come from data: write orient: features or orient: inputs")
    if arm.basis is not None and not has_basis(arm):
        raise FieldError(("basis",), f"frame: {arm.frame} has none; remove it")
    if arm.exponent is not None and not is_oriented(arm):
        raise FieldError(("exponent",), "has no effect without orient; remove it")
    if arm.loss == "dot_regression":
        _check_dot_regression(arm)


def _check_dot_regression(arm: Arm) -> None:
    reason = "loss: dot_regression compares cosines with fixed class vectors, so write"
    if arm.head != "etf":
        raise FieldError(("head",), f"{reason} head: etf, got head: {arm.head}")
    for option, value in (("normalize", True), ("learn_scale", False)):
        if getattr(arm, option) is not value:
            raise FieldError((option,), f"{reason} normalize: true and learn_scale: false")
    if arm.fused:
        raise FieldError(("fused",), "streams cross-entropy alone; with loss: dot_regression remove it")
    # Its target is the logit of a perfect feature, which only a stated scale tells.
    if not isinstance(arm.scale, (int, float)):
        raise FieldError(("scale",), f"{reason} a number, as in scale: 1")
