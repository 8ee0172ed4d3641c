"""What can be known before an hour of training: names exist, the model builds, its heads exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from etfhead.experiment.recipe import Recipe
from etfhead.experiment.suggest import did_you_mean

__all__ = ["check_buildable"]

_NUM_CLASSES = {"digits": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "synthetic": 10}
_SCHEDULES = ("cosine", "step", "multistep", "poly", "tanh", "none")


def check_buildable(recipe: Recipe) -> int:
    """Check a recipe against the installed timm, without data, weights or memory for the model.

    Args:
        recipe: The resolved recipe. The number of classes of an ``image_folder`` is not known here, so
            its heads are tried with two.

    Returns:
        int: Trainable parameters of the baseline's model.

    Raises:
        ValueError: If model, optimizer, schedule, augmentation or a path does not exist, the model
            refuses its arguments, or an arm's head cannot be built on it.
    """
    _check_paths(recipe)
    _check_augmentation(recipe)
    _check_optimization(recipe)
    return _check_models(recipe)


def _check_paths(recipe: Recipe) -> None:
    wanted = {"initial_checkpoint": recipe.initial_checkpoint}
    if not recipe.download:
        wanted["data_root"] = recipe.data_root
    for key, value in wanted.items():
        if value is not None and not Path(value).expanduser().exists():
            raise ValueError(f"{key}: {value!r} does not exist (seen from {Path.cwd()})")


def _check_augmentation(recipe: Recipe) -> None:
    from etfhead.experiment.data.statistics import Normalization
    from etfhead.experiment.data.transforms import train_transform

    any_values = (0.5,) * recipe.in_chans
    train_transform(recipe, Normalization(any_values, any_values, "none"))


def _check_optimization(recipe: Recipe) -> None:
    import torch

    from etfhead.experiment.training.session import build_optimizer, build_scheduler

    optimizer = build_optimizer(recipe, torch.nn.Linear(1, 1))
    try:
        scheduler = build_scheduler(recipe, optimizer, steps_per_epoch=1)
    except ValueError as error:
        hint = "" if recipe.sched in _SCHEDULES else did_you_mean(recipe.sched, _SCHEDULES)
        raise ValueError(f"{error}{hint}") from error
    # Older timm answers an unknown name with no schedule at all: a constant rate that nobody asked for.
    if scheduler is None and recipe.sched != "none":
        hint = did_you_mean(recipe.sched, _SCHEDULES)
        raise ValueError(f"sched: timm has no {recipe.sched!r}{hint}; write {', '.join(_SCHEDULES)}")


def _check_models(recipe: Recipe) -> int:
    import torch

    from etfhead.experiment.training.arms import build_model

    num_classes = _NUM_CLASSES.get(recipe.dataset, 2)
    stock = replace(recipe, pretrained=False, initial_checkpoint=None)
    sizes = {}
    for name, arm in recipe.arms.items():
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                model = build_model(stock, arm, num_classes, seed=0)
        except ValueError as error:
            raise ValueError(
                str(error) if str(error).startswith("model:") else f"arm {name!r}: {error}"
            ) from error
        sizes[name] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return sizes[recipe.baseline]
