"""timm's optimizer and schedule from a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from etfhead.experiment.recipe import Recipe
from etfhead.experiment.suggest import did_you_mean

__all__ = ["build_optimizer", "build_scheduler"]


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Build timm's optimizer of that name: no weight decay on biases, norms and a head's scale."""
    from timm.optim import create_optimizer_v2, list_optimizers

    options = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "momentum": recipe.momentum}
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(model, opt=recipe.opt, **options)
    except (ValueError, TypeError, AssertionError) as error:
        hint = did_you_mean(recipe.opt, list_optimizers())
        raise ValueError(f"opt: timm cannot build {recipe.opt!r}{hint}: {error}") from error
    for group in optimizer.param_groups:  # without weight decay timm hands over the frozen ones too
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    return optimizer


def build_scheduler(recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
    """Build timm's schedule, moved at every update and without a state of its own; None for ``none``."""
    from timm.scheduler import create_scheduler_v2

    if recipe.sched == "plateau":
        raise ValueError(
            "sched: plateau follows each arm's own validation figures, so the arms would not share one "
            "schedule; use cosine, step, poly or none"
        )
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=recipe.sched,
            num_epochs=recipe.epochs,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.warmup_lr,
            min_lr=recipe.min_lr,
            decay_epochs=recipe.decay_epochs or recipe.epochs,
            decay_milestones=list(recipe.decay_milestones or ()),
            decay_rate=recipe.decay_rate,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )
    except (ValueError, AssertionError) as error:
        raise ValueError(f"sched: {recipe.sched!r} cannot be built: {error}") from error
    return scheduler
