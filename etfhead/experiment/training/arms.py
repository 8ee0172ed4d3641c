"""From an arm of a recipe to a model, a loss and batch mixing."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from etfhead.errors import CheckpointError
from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.suggest import did_you_mean
from etfhead.experiment.training.rng import seed_model

if TYPE_CHECKING:
    from timm.data import Mixup

__all__ = ["build_loss", "build_mixup", "build_model", "load_initial_weights", "resolve_arms"]

_log = logging.getLogger(__name__)

_OPTIONS = ("frame", "basis", "neck", "normalize", "scale", "learn_scale")


def resolve_arms(recipe: Recipe) -> Recipe:
    """Write the default of its head into every option an arm leaves open.

    What a run records and compares on ``--resume`` is then what it trained with, also after a later version
    has changed a default.
    """
    from etfhead import heads

    kinds = {"etf": heads.ETFHead, "cosine": heads.CosineHead, "linear": heads.LinearHead}
    arms = {}
    for name, arm in recipe.arms.items():
        options = inspect.signature(kinds[arm.head]).parameters
        filled: dict[str, Any] = {
            option: "none" if options[option].default is None else options[option].default
            for option in _OPTIONS
            if option in options and getattr(arm, option) is None
        }
        if arm.loss == "dot_regression" and arm.class_balanced is None:
            filled["class_balanced"] = False
        arms[name] = dataclasses.replace(arm, **filled)
    return dataclasses.replace(recipe, arms=arms)


def build_model(recipe: Recipe, arm: Arm, num_classes: int, seed: int) -> nn.Module:
    """Build the model of one arm; without the head it is bit for bit the same for every arm of a seed.

    The global random state is left at a point that depends on the arm: put it back around the call.

    Args:
        recipe: Model name and options, initial weights, label smoothing (for ``scale: auto``).
        arm: Head and its options.
        num_classes: K.
        seed: Seed of the initial weights and of the frame's basis.

    Raises:
        ValueError: If the model or the head cannot be built with these options.
    """
    seed_model(seed)
    model = _create(recipe, num_classes)
    if recipe.initial_checkpoint is not None:
        load_initial_weights(model, recipe.initial_checkpoint)
    # The trunk is complete before the head draws a number, so a head's appetite cannot shift it.
    return _swap(model, arm, recipe.smoothing, seed)


def build_loss(recipe: Recipe, arm: Arm) -> nn.Module:
    """Build the training loss of one arm: ``forward(logits, target)``.

    With mixup or cutmix the targets are soft and carry the label smoothing already (:func:`build_mixup`).
    """
    if arm.loss == "dot_regression":
        from etfhead.losses import DotRegressionLoss

        scale = arm.scale if isinstance(arm.scale, int | float) else 1.0
        return DotRegressionLoss(target_logit=float(scale), class_balanced=bool(arm.class_balanced))
    if recipe.mixup or recipe.cutmix:
        from timm.loss import SoftTargetCrossEntropy

        loss: nn.Module = SoftTargetCrossEntropy()
        return loss
    return nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)


def build_mixup(recipe: Recipe, arm: Arm, num_classes: int) -> Mixup | None:
    """Build timm's mixup/cutmix, or None when both are off; only cross-entropy smooths its targets."""
    if not (recipe.mixup or recipe.cutmix):
        return None
    from timm.data import Mixup

    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.smoothing if arm.loss == "cross_entropy" else 0.0,
        num_classes=num_classes,
    )


def _create(recipe: Recipe, num_classes: int) -> nn.Module:
    import timm

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
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"model: timm cannot build {recipe.model!r} with {options}: {error}") from error
    return model


def _swap(model: nn.Module, arm: Arm, smoothing: float, seed: int) -> nn.Module:
    from etfhead.surgery import swap_head

    options = {name: getattr(arm, name) for name in _OPTIONS if getattr(arm, name) is not None}
    if options.get("neck") == "none":
        options["neck"] = None
    if arm.head == "linear" and options.get("neck") is None:
        return model
    if arm.head != "linear":
        options["label_smoothing"] = smoothing
    if arm.head == "etf":
        options["seed"] = seed
    swapped: nn.Module = swap_head(model, head=arm.head, **options)
    return swapped


def load_initial_weights(model: nn.Module, path: str) -> None:
    """Load a trunk from safetensors or a torch file, before the head is swapped in.

    A classifier that the file's model has and this one has not (another width, a fixed head) is dropped
    with a note; anything else that does not fit is an error.

    Args:
        model: Stock model, changed in place.
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` accepts.

    Raises:
        CheckpointError: If the file is missing, unreadable, or of another model.
    """
    from timm.models import load_state_dict

    from etfhead.surgery import find_classifiers

    try:
        state = load_state_dict(str(Path(path).expanduser()), weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"initial_checkpoint: there is no file {path!r}") from None
    except Exception as error:  # safetensors, pickle, zipfile and torch each fail in their own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"initial_checkpoint: cannot read {path!r} ({reason[:200]})") from error
    own = model.state_dict()
    leaves = tuple(f"{leaf}." for leaf in find_classifiers(model))
    state = _without_other_classifier(own, state, leaves, path)
    for name in own.keys() & state.keys():
        if own[name].shape != state[name].shape:
            there, here = tuple(state[name].shape), tuple(own[name].shape)
            raise CheckpointError(
                f"initial_checkpoint: {path!r} is not of this model ({name} is {there} there, {here} here)"
            )
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith(leaves)]
    if missing or unexpected:
        raise CheckpointError(
            f"initial_checkpoint: {path!r} is not of this model ({len(missing)} tensors missing"
            f"{_first(missing)}, {len(unexpected)} unexpected{_first(unexpected)})"
        )


def _without_other_classifier(
    own: dict[str, Tensor], state: dict[str, Tensor], leaves: tuple[str, ...], path: str
) -> dict[str, Tensor]:
    ours = {name: value.shape for name, value in own.items() if name.startswith(leaves)}
    theirs = {name: value.shape for name, value in state.items() if name.startswith(leaves)}
    if ours == theirs or not theirs:
        return state
    _log.warning("initial_checkpoint: left the classifier of %s out (%s)", path, ", ".join(theirs))
    return {name: value for name, value in state.items() if name not in theirs}


def _first(names: list[str]) -> str:
    return f": {names[0]}" + (", ..." if len(names) > 1 else "") if names else ""
