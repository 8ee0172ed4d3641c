"""Whether every arm of a comparison can be built and trained, before the first step of any."""

from __future__ import annotations

from typing import Any

import torch

from etfhead.experiment.data import Splits
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.task import stand_in_targets
from etfhead.experiment.training.arms import build_loss, build_mixup, build_model
from etfhead.experiment.training.class_losses import LossFacts
from etfhead.experiment.training.optimization import build_optimizer, build_scheduler

__all__ = ["check_arms", "try_forward"]


def check_arms(recipe: Recipe, splits: Splits) -> None:
    """Build every arm once and push two blank images through it: options fail now, not hours later.

    Args:
        recipe: The comparison, with its arms resolved.
        splits: Of any of its seeds.

    Raises:
        ValueError: An arm cannot be built or trained as the recipe says; the message names it.
    """
    target = stand_in_targets(recipe, 2, splits.num_classes)
    facts = LossFacts.of(splits)
    for name, arm in recipe.arms.items():
        try:
            model = build_model(
                recipe,
                arm,
                splits.num_classes,
                recipe.seeds[0],
                class_counts=splits.class_counts,
                target_statistics=facts.target_statistics,
            ).eval()
            build_scheduler(recipe, build_optimizer(recipe, model), steps_per_epoch=1)
            images = torch.zeros(2, recipe.in_chans, recipe.img_size, recipe.img_size)
            with torch.no_grad():
                outputs = try_forward(model, images, recipe)
                if not isinstance(outputs, torch.Tensor) or outputs.shape != (2, splits.num_classes):
                    got = (
                        tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
                    )
                    raise ValueError(
                        f"model: {recipe.model!r} gives {got}, expected logits (2, {splits.num_classes})"
                    )
                mixup = build_mixup(recipe, arm, splits.num_classes)
                if arm.fused:
                    outputs = try_forward(model.train(), images, recipe)  # features
                build_loss(recipe, arm, model, facts).eval()(
                    outputs, target if mixup is None else mixup(images, target)[1]
                )
        except ValueError as error:
            raise ValueError(f"arm {name!r}: {error}") from error


def try_forward(model: torch.nn.Module, images: torch.Tensor, recipe: Recipe) -> Any:
    """Outputs for images, or a ValueError that names their shape."""
    try:
        return model(images)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"model: {recipe.model!r} cannot take images of {tuple(images.shape[1:])} "
            f"(in_chans, img_size, img_size): {reason}"
        ) from error
