"""From an arm of a recipe to a model, a loss and batch mixing."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etfhead.experiment.arm_checks import HEAD_OPTIONS, MULTILABEL_LOSSES, has_basis, is_oriented
from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.suggest import did_you_mean
from etfhead.experiment.task import is_multilabel, is_regression, primary_metric
from etfhead.experiment.training.class_losses import LossFacts, build_class_loss
from etfhead.experiment.training.initial_weights import load_initial_weights
from etfhead.experiment.training.label_losses import build_label_loss
from etfhead.experiment.training.linear_tail import DecayedTail
from etfhead.experiment.training.long_tail_arms import counted_frame, loss_options, reweighted
from etfhead.experiment.training.regression_arms import build_target_loss, regression_options
from etfhead.experiment.training.rng import seed_model
from etfhead.experiment.training.trainable import freeze_all_but
from etfhead.surgery import align_head, find_heads, swap_head
from etfhead.surgery.head_factory import HEADS

if TYPE_CHECKING:
    from timm.data import Mixup

    from etfhead.frames import TargetStatistics

__all__ = ["build_loss", "build_mixup", "build_model", "resolve_arms"]

_OF_THE_START = ("orient", "exponent")  # options of an arm that are not its head's


def resolve_arms(recipe: Recipe) -> Recipe:
    """Write the default of its head into every option an arm leaves open, and the metric of multi-label data.

    What a run records and compares on ``--resume`` is then what it trained with, also after a later version
    has changed a default.
    """
    arms = {}
    for name, arm in recipe.arms.items():
        options = inspect.signature(HEADS[arm.head][0]).parameters
        filled: dict[str, Any] = {
            option: "none" if options[option].default is None else options[option].default
            for option in HEAD_OPTIONS[arm.head]
            if option not in _OF_THE_START and getattr(arm, option) is None
        }
        if not has_basis(arm):
            filled.pop("basis", None)
        if arm.orient is None:
            filled["orient"] = "none"
        if is_oriented(arm) and arm.exponent is None:
            filled["exponent"] = inspect.signature(align_head).parameters["exponent"].default
        if arm.loss == "dot_regression" and arm.class_balanced is None:
            filled["class_balanced"] = False
        if arm.loss == "pick_all_label" and arm.pal_normalize is None:
            filled["pal_normalize"] = False
        if arm.loss in MULTILABEL_LOSSES and arm.decode is None:
            by_geometry = arm.head == "multilabel_etf" and arm.loss == "pick_all_label"
            filled["decode"] = "nearest" if by_geometry else "threshold"
        arms[name] = dataclasses.replace(arm, **filled)
    if is_multilabel(recipe.dataset):
        # Neural collapse is measured of one class an image alone.
        metric: Any = primary_metric(recipe)
        recipe = dataclasses.replace(recipe, primary_metric=metric, collapse_every=0)
    if is_regression(recipe.dataset):
        recipe = dataclasses.replace(recipe, primary_metric="r2")
    return dataclasses.replace(recipe, arms=arms)


def build_model(
    recipe: Recipe,
    arm: Arm,
    num_classes: int,
    seed: int,
    *,
    class_counts: Sequence[int] | None = None,
    target_statistics: TargetStatistics | None = None,
) -> nn.Module:
    """Build the model of one arm; without the head it is bit for bit the same for every arm of a seed.

    The global random state is left at a point that depends on the arm: put it back around the call.

    Args:
        recipe: Model name and options, initial weights, parts that train, label smoothing (for
            ``scale: auto``).
        arm: Head and its options.
        num_classes: K.
        seed: Seed of the initial weights and of the frame's basis.
        class_counts: Training images of each class, for the frames that follow them; None: equal ones.
        target_statistics: Of standardised real-valued targets; None where a checkpoint will bring them.

    Raises:
        ValueError: If the model or the head cannot be built with these options.
    """
    seed_model(seed)
    model = _create(recipe, num_classes)
    if recipe.initial_checkpoint is not None:
        load_initial_weights(model, recipe.initial_checkpoint)
    # The trunk is complete before the head draws a number, so a head's appetite cannot shift it.
    counted = counted_frame(arm, model, num_classes, class_counts, seed)
    counted |= regression_options(arm, target_statistics, num_classes)
    model = _swap(model, arm, recipe.smoothing, seed, counted)
    if recipe.trainable is not None:
        freeze_all_but(model, recipe.trainable)
    return model


def build_loss(recipe: Recipe, arm: Arm, model: nn.Module, facts: LossFacts) -> nn.Module:
    """Build the training loss of one arm: ``forward(outputs, target)`` of the model in training mode.

    With mixup or cutmix the targets are soft and carry the label smoothing already (:func:`build_mixup`).
    A loss that remembers each training image also takes its position in the training split.

    Args:
        recipe: Label smoothing, mixup and cutmix.
        arm: Loss and its options.
        model: The arm's model: with ``fused: true`` its training mode gives features, and the loss streams
            them through the head.
        facts: What losses take from the data.

    Raises:
        ValueError: If the loss cannot be streamed because the model has several heads.
    """
    if is_regression(recipe.dataset):
        return build_target_loss(arm, facts.target_statistics)
    if arm.tail_decay is not None:
        from etfhead.experiment.training.tail_geometry import is_predicted, tail_optimum  # brings metrics

        bare = build_loss(recipe, dataclasses.replace(arm, tail_decay=None), model, facts)
        decayed = DecayedTail(bare, model, arm.tail_decay, facts.num_samples)
        if recipe.collapse_every and is_predicted(decayed):
            tail_optimum(decayed, facts.class_counts)  # refuses now what could not be compared later
        return decayed
    if arm.fused:
        from etfhead.losses import FrameCrossEntropyLoss

        found = find_heads(model)
        if len(found) != 1:
            raise ValueError(f"fused: expected a model with one head, got {', '.join(found)}; remove fused")
        # Accelerate hands features over in float32, and the loss is outside of autocast.
        on_gpu = torch.cuda.is_available() and not recipe.cpu
        products = torch.bfloat16 if on_gpu and recipe.amp_dtype == "bfloat16" else None
        return FrameCrossEntropyLoss(
            next(iter(found.values())), label_smoothing=recipe.smoothing, product_dtype=products
        )
    if arm.loss in MULTILABEL_LOSSES:
        return build_label_loss(arm, recipe.smoothing)
    if arm.loss == "dot_regression":
        from etfhead.losses import DotRegressionLoss

        scale = arm.scale if isinstance(arm.scale, int | float) else 1.0
        return DotRegressionLoss(target_logit=float(scale), class_balanced=bool(arm.class_balanced))
    if arm.loss != "cross_entropy":
        smoothing = 0.0 if recipe.mixup or recipe.cutmix else recipe.smoothing
        criterion = build_class_loss(arm.loss, loss_options(arm, model), facts, label_smoothing=smoothing)
        return reweighted(arm, criterion, facts)
    if arm.reweight_from is not None:
        smoothing = 0.0 if recipe.mixup or recipe.cutmix else recipe.smoothing
        return reweighted(arm, nn.CrossEntropyLoss(label_smoothing=smoothing), facts)
    if recipe.mixup or recipe.cutmix:
        from timm.loss import SoftTargetCrossEntropy

        loss: nn.Module = SoftTargetCrossEntropy()
        return loss
    return nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)


def build_mixup(recipe: Recipe, arm: Arm, num_classes: int) -> Mixup | None:
    """Build timm's mixup/cutmix, or None when both are off; it smooths labels for losses that smooth them."""
    if not (recipe.mixup or recipe.cutmix):
        return None
    from timm.data import Mixup

    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=0.0 if arm.loss == "dot_regression" else recipe.smoothing,
        num_classes=num_classes,
    )


def _create(recipe: Recipe, num_classes: int) -> nn.Module:
    import timm

    import etfhead.experiment.models  # noqa: F401 - registers the small ones

    if not timm.is_model(recipe.model):
        hint = did_you_mean(recipe.model, timm.list_models())
        raise ValueError(f"model: timm has no {recipe.model!r}{hint}")
    options: dict[str, Any] = {"in_chans": recipe.in_chans, "num_classes": num_classes}
    config = timm.get_pretrained_cfg(recipe.model, allow_unregistered=True)
    if config is not None and config.fixed_input_size:
        options["img_size"] = recipe.img_size
    if recipe.drop:
        options["drop_rate"] = recipe.drop
    if recipe.drop_path:
        options["drop_path_rate"] = recipe.drop_path
    options |= recipe.model_kwargs
    try:
        model: nn.Module = timm.create_model(recipe.model, pretrained=recipe.pretrained, **options)
    except OSError as error:
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"pretrained: the weights of {recipe.model!r} could not be fetched ({reason}); go online, or "
            "give initial_checkpoint=FILE pretrained=false"
        ) from error
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"model: timm cannot build {recipe.model!r} with {options}: {error}") from error
    return model


def _swap(model: nn.Module, arm: Arm, smoothing: float, seed: int, counted: Mapping[str, Any]) -> nn.Module:
    names = [name for name in HEAD_OPTIONS[arm.head] if name not in _OF_THE_START]
    options = {name: getattr(arm, name) for name in names if getattr(arm, name) is not None}
    if options.get("neck") == "none":
        options["neck"] = None
    if arm.head == "linear" and options.get("neck") is None:
        return model
    if options.get("frame") == "class_means":
        options["frame"] = "auto"  # takes the place until the data have been seen
    known = inspect.signature(HEADS[arm.head][0]).parameters
    of_training = {"label_smoothing": smoothing, "seed": seed, "normalized_loss": bool(arm.pal_normalize)}
    options |= {k: v for k, v in of_training.items() if k in known} | dict(counted)
    swapped: nn.Module = swap_head(model, head=arm.head, **options)
    return swapped
