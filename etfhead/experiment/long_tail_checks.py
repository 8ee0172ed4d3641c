"""Rules of long tails: which data can be made unequal, and which arms know class counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etfhead.experiment.field_error import FieldError
from etfhead.experiment.loss_names import MULTILABEL_LOSSES
from etfhead.experiment.task import is_multilabel

if TYPE_CHECKING:
    from etfhead.experiment.arm import Arm
    from etfhead.experiment.recipe import Recipe

__all__ = ["COUNTED_FRAMES", "REWEIGHTED_LOSSES", "check_long_tail", "check_long_tail_arm"]

# Frames whose vectors follow the training images of each class.
COUNTED_FRAMES = ("orthogonal", "imbalanced_ce", "seli")
REWEIGHTED_LOSSES = ("cross_entropy", "logit_adjusted", "balanced_softmax", "ldam")
# Losses of the cosines between features and class vectors, whatever these are.
_OF_COSINES = ("ldam", "ntce", "nonl")
_ALWAYS_COSINES = ("cosine", "class_mean", "delta")
_ONLY_WITH_FACTOR = {"imbalance_kind": "exponential", "imbalance_max": None, "imbalance_order": "file"}


def check_long_tail(recipe: Recipe) -> None:
    """Refuse a long tail of data that have none to take, and options of one that is not asked for.

    Raises:
        FieldError: Naming the field.
    """
    if recipe.imbalance_factor is None:
        for key, default in _ONLY_WITH_FACTOR.items():
            if getattr(recipe, key) != default:
                raise FieldError((key,), "has no effect without imbalance_factor; give it or remove this")
        return
    if is_multilabel(recipe.dataset) or recipe.dataset.startswith("regression"):
        raise FieldError(
            ("imbalance_factor",),
            f"needs one class an image, and dataset: {recipe.dataset} has not; remove it",
        )


def check_long_tail_arm(arm: Arm) -> None:
    """Refuse options of class counts that the arm's head or loss has no use for.

    Raises:
        FieldError: Naming the option.
    """
    if arm.frame_options and (arm.head != "etf" or arm.frame not in COUNTED_FRAMES):
        raise FieldError(
            ("frame_options",), f"belong to frame: {', '.join(COUNTED_FRAMES)} of head: etf; remove it"
        )
    if arm.frame in COUNTED_FRAMES and arm.head == "multilabel_etf":
        raise FieldError(("frame",), f"{arm.frame} counts one class an image; write head: etf")
    if arm.frame in COUNTED_FRAMES and arm.orient not in (None, "none"):
        raise FieldError(("orient",), f"puts a simplex in place of frame: {arm.frame}; remove one")
    if arm.reweight_from is not None and arm.loss not in REWEIGHTED_LOSSES:
        raise FieldError(("reweight_from",), f"only with loss: {', '.join(REWEIGHTED_LOSSES)}; remove it")
    if arm.reweight_beta is not None and arm.reweight_from is None:
        raise FieldError(("reweight_beta",), "has no effect without reweight_from; remove it")
    if arm.fused and (arm.reweight_from is not None or arm.posthoc is not None):
        option = "posthoc" if arm.reweight_from is None else "reweight_from"
        raise FieldError((option,), "not with fused: true, which never holds the logits; remove one")
    if arm.posthoc is not None and arm.loss in MULTILABEL_LOSSES:
        raise FieldError(("posthoc",), f"of one class an image, and loss: {arm.loss} has several; remove it")
    if arm.posthoc is not None and arm.loss in ("logit_adjusted", "balanced_softmax"):
        raise FieldError(("posthoc",), f"loss: {arm.loss} has adjusted in training already; remove one")
    if arm.tail_decay is not None and (arm.head != "linear" or arm.neck not in (None, "none")):
        raise FieldError(("tail_decay",), "is of stock linear layers: write head: linear without a neck")
    if arm.loss in _OF_COSINES:
        _check_cosines(arm)


def _check_cosines(arm: Arm) -> None:
    reason = f"loss: {arm.loss} compares cosines, so write"
    if arm.head not in _ALWAYS_COSINES and not (arm.head in ("etf", "guided") and arm.normalize):
        raise FieldError(
            ("head",), f"{reason} head: {', '.join(_ALWAYS_COSINES)}, or etf with normalize: true"
        )
    if arm.loss == "ldam":
        return
    # The negatives' sum falls without end as the scale grows.
    if arm.learn_scale is not False:
        raise FieldError(
            ("learn_scale",), f"{reason} learn_scale: false, with scale as the inverse temperature"
        )
    if not isinstance(arm.scale, int | float):
        raise FieldError(("scale",), f"{reason} a number, as in scale: 10")
