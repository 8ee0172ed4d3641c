"""Which options an arm's head and loss have, and which contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etfhead.experiment.field_error import FieldError
from etfhead.experiment.long_tail_checks import check_long_tail_arm
from etfhead.experiment.loss_names import MULTILABEL_LOSSES

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Arm

__all__ = [
    "HEAD_OPTIONS",
    "MULTILABEL_LOSSES",
    "STATEFUL_LOSSES",
    "check_arm",
    "check_task",
    "has_basis",
    "is_oriented",
]

_ANY_HEAD = ("neck", "orient", "exponent")
_SCALED = (*_ANY_HEAD, "scale", "learn_scale")
HEAD_OPTIONS = {
    "linear": _ANY_HEAD,
    "cosine": _SCALED,
    "etf": (*_SCALED, "frame", "basis", "normalize", "low_rank", "fused"),
    "multilabel_etf": (*_SCALED, "frame", "basis", "normalize", "low_rank"),
    "class_mean": (*_SCALED, "fused", "momentum", "centre", "repel"),
    "delta": (*_SCALED, "fused", "rate"),
    "guided": (*_SCALED, "basis", "normalize", "momentum", "every"),
    "regression": (*_ANY_HEAD, "basis", "feature_energy", "allow_singular"),
}
# Losses that have options of their own among the arm's, or none.
_WITHOUT_OPTIONS = ("cross_entropy", "dot_regression", *MULTILABEL_LOSSES)
# Losses that the recipe's label smoothing goes into.
_SMOOTHED = ("pick_all_label", "binary_cross_entropy")
_SMOOTHED_OF_CLASSES = ("cross_entropy", "logit_adjusted", "balanced_softmax", "ldam")
# Losses of the cosines between features and fixed class vectors.
_OF_COSINES = ("dot_regression", "etf_dot")
# Losses that remember each training image.
STATEFUL_LOSSES = ("early_learning", "sparse_overparametrization")


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
    _check_label_sets(arm)
    if arm.frame == "class_means" and not is_oriented(arm):
        raise FieldError(("frame",), "class_means come from data: write orient: features or orient: inputs")
    if arm.basis is not None and not has_basis(arm):
        raise FieldError(("basis",), f"frame: {arm.frame} has none; remove it")
    if arm.exponent is not None and not is_oriented(arm):
        raise FieldError(("exponent",), "has no effect without orient; remove it")
    if arm.loss_options and arm.loss in _WITHOUT_OPTIONS:
        raise FieldError(("loss_options",), f"loss: {arm.loss} takes none of these; remove it")
    if arm.fused and arm.loss not in ("cross_entropy", *MULTILABEL_LOSSES):
        raise FieldError(("fused",), f"streams cross-entropy alone; with loss: {arm.loss} remove it")
    if arm.loss in _OF_COSINES:
        _check_loss_of_cosines(arm)
    check_long_tail_arm(arm)


def _check_loss_of_cosines(arm: Arm) -> None:
    reason = f"loss: {arm.loss} compares cosines with fixed class vectors, so write"
    if arm.head != "etf":
        raise FieldError(("head",), f"{reason} head: etf, got head: {arm.head}")
    for option, value in (("normalize", True), ("learn_scale", False)):
        if getattr(arm, option) is not value:
            raise FieldError((option,), f"{reason} normalize: true and learn_scale: false")
    # Its target is the logit of a perfect feature, which only a stated scale tells.
    if not isinstance(arm.scale, (int, float)):
        raise FieldError(("scale",), f"{reason} a number, as in scale: 1")


def _check_label_sets(arm: Arm) -> None:
    """Options of multi-label losses belong to these, and the geometry of decoding to pick-all-label alone."""
    if arm.pal_normalize is not None and arm.loss != "pick_all_label":
        raise FieldError(("pal_normalize",), "only loss: pick_all_label has this option; remove it")
    if arm.head == "multilabel_etf" and arm.loss not in MULTILABEL_LOSSES:
        raise FieldError(
            ("loss",), "head: multilabel_etf decodes label sets: write loss: pick_all_label, or head: etf"
        )
    if arm.decode is None:
        return
    if arm.loss not in MULTILABEL_LOSSES:
        raise FieldError(("decode",), f"loss: {arm.loss} names one class an image; remove it")
    if arm.decode != "threshold" and arm.loss != "pick_all_label":
        raise FieldError(
            ("decode",),
            f"{arm.decode} is the geometry that loss: pick_all_label leads to; with loss: {arm.loss} write "
            "threshold or remove it",
        )


def check_task(name: str, arm: Arm, *, dataset: str, multilabel: bool, smoothing: float) -> None:
    """Refuse an arm that cannot train on the data's kind of targets.

    Args:
        name: Of the arm.
        arm: The arm.
        dataset: Of the recipe.
        multilabel: Whether its images carry any number of labels.
        smoothing: Label smoothing of the recipe.

    Raises:
        FieldError: If loss, head or an option is of the other task.
    """
    if arm.head == "regression":
        raise FieldError(
            ("arms", name, "head"),
            f"regression is for real-valued targets and dataset: {dataset} has classes; write another head "
            "or choose a regression_ data set",
        )
    if not multilabel:
        if arm.loss in MULTILABEL_LOSSES:
            raise FieldError(
                ("arms", name, "loss"),
                f"{arm.loss} is of multi-label data and dataset: {dataset} has one class an image; write "
                "cross_entropy or choose a multilabel_ data set",
            )
        if smoothing and arm.loss not in (*_SMOOTHED_OF_CLASSES, "dot_regression"):
            raise FieldError(
                ("smoothing",),
                f"loss: {arm.loss} (arm {name!r}) has no label smoothing, and arms must share it; write 0.0",
            )
        return
    if arm.loss not in MULTILABEL_LOSSES:
        raise FieldError(
            ("arms", name, "loss"),
            f"{arm.loss} knows one class an image and dataset: {dataset} has several labels; write one of "
            f"{', '.join(MULTILABEL_LOSSES)}",
        )
    if arm.head in ("class_mean", "delta", "guided"):
        raise FieldError(
            ("arms", name, "head"),
            f"{arm.head} follows the features of one class an image; on multi-label data write linear, "
            "cosine, etf or multilabel_etf",
        )
    if is_oriented(arm):
        raise FieldError(
            ("arms", name, "orient"), "class means need one class an image; remove it on multi-label data"
        )
    if arm.fused:
        raise FieldError(("arms", name, "fused"), "streams cross-entropy of one class an image; remove it")
    if smoothing and arm.loss not in _SMOOTHED:
        raise FieldError(
            ("smoothing",),
            f"loss: {arm.loss} (arm {name!r}) has no label smoothing, and arms must share it; write 0.0",
        )
