"""What arms take from class counts: frames that follow them, LDAM with its scale, open re-weighting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from etfhead.experiment.arm import Arm
from etfhead.experiment.long_tail_checks import COUNTED_FRAMES
from etfhead.experiment.training.reweighted import ReweightedLoss
from etfhead.losses import log_prior
from etfhead.surgery import find_classifiers, find_heads

if TYPE_CHECKING:
    from etfhead.experiment.training.class_losses import LossFacts

__all__ = ["counted_frame", "loss_options", "posthoc_labels", "reweighted"]


def counted_frame(
    arm: Arm, model: nn.Module, num_classes: int, class_counts: Sequence[int] | None, seed: int
) -> dict[str, Any]:
    """Options of ``swap_head`` for an arm whose frame follows class counts; none for other arms.

    Args:
        arm: Its frame, the frame's options and basis.
        model: The stock model, for the width of its features.
        num_classes: K.
        class_counts: Training images of each class; None where the data have not been read: equal ones.
        seed: Of the frame's basis.

    Raises:
        ValueError: If the frame does not exist for these sizes and options.
    """
    if arm.frame not in COUNTED_FRAMES:
        return {}
    counts = [1] * num_classes if class_counts is None else list(class_counts)
    if not arm.frame_options:
        return {"frame": arm.frame, "class_counts": counts}
    from etfhead.frames import frame_options, make_frame

    layer = next(iter(find_classifiers(model).values()))
    width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    sizes: dict[str, Any] = {"num_classes": num_classes, "in_features": width}
    known = [key for key in frame_options(arm.frame, **sizes) if key not in ("class_counts", "basis", "seed")]
    for key in arm.frame_options:
        if key not in known:
            raise ValueError(
                f"frame_options: frame: {arm.frame} has no option {key!r}; it has "
                f"{', '.join(known) or 'none'}"
            )
    basis: dict[str, Any] = {} if arm.basis is None else {"basis": arm.basis}
    frame = make_frame(arm.frame, class_counts=counts, seed=seed, **basis, **sizes, **arm.frame_options)
    return {"frame": frame}


def loss_options(arm: Arm, model: nn.Module) -> dict[str, Any]:
    """Options of the arm's loss, with the scale of its head where LDAM needs it for margins in cosines."""
    options = dict(arm.loss_options or {})
    if arm.loss == "ldam" and "scale" not in options:
        heads = list(find_heads(model).values())
        if len(heads) != 1:
            raise ValueError(f"loss: ldam needs a model with one head, got {len(heads)}; take another loss")
        scale = heads[0].scale
        options["scale"] = 1.0 if scale.is_meta else scale
    return options


def reweighted(arm: Arm, criterion: nn.Module, facts: LossFacts) -> nn.Module:
    """The loss with the weights that the arm asks for, or as it is."""
    if arm.reweight_from is None:
        return criterion
    criterion.reduction = "none"  # type: ignore[assignment]
    beta = {} if arm.reweight_beta is None else {"beta": arm.reweight_beta}
    return ReweightedLoss(criterion, facts.class_counts, start=arm.reweight_from, **beta)


def posthoc_labels(arm: Arm, class_counts: Sequence[int]) -> dict[str, str | int]:
    """What a weights file says of an arm that predicts with adjusted logits; nothing for other arms.

    ``subtract_from_logits`` is a JSON list of K numbers: who loads the weights subtracts it, or adds its
    negative to a bias.
    """
    if not arm.posthoc:
        return {}
    shift = [round(number, 6) for number in log_prior(class_counts, tau=arm.posthoc).tolist()]
    return {"posthoc": str(arm.posthoc), "subtract_from_logits": json.dumps(shift)}
