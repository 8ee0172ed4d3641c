"""What can be known before an hour of training: names exist, the model builds, its heads exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.suggest import did_you_mean
from etfhead.experiment.task import FROM_A_PATH

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_buildable"]

_NUM_CLASSES = {"digits": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "synthetic": 10}
_NUM_CLASSES |= {"multilabel_digits": 10, "multilabel_fashion": 10, "multilabel_synthetic": 10}
_NUM_CLASSES |= {"regression_linnerud": 3, "regression_diabetes": 1, "regression_synthetic": 3}
_SCHEDULES = ("cosine", "step", "multistep", "poly", "tanh", "none")


def check_buildable(recipe: Recipe) -> int:
    """Check a recipe against the installed timm, without data, weights or memory for the model.

    Many models of timm 1.0.15 cannot be built on the meta device; those are built in memory.

    Args:
        recipe: The resolved recipe. Of ``npz`` files the labels are read, of an ``image_folder`` the names
            of the class folders, for the number of classes.

    Returns:
        int: Trainable parameters of the baseline's model.

    Raises:
        ValueError: If model, optimizer, schedule, augmentation, a path or a class does not exist, the model
            refuses its arguments or images of this size, or an arm's head cannot be built on it.
    """
    _check_paths(recipe)
    _check_augmentation(recipe)
    _check_optimization(recipe)
    return _check_models(recipe)


def _check_paths(recipe: Recipe) -> None:
    # A recipe may be shown, copied and shrunk without its data; only here they must be named.
    if recipe.dataset in FROM_A_PATH and recipe.data_root is None:
        what = "folder" if recipe.dataset == "image_folder" else "file"
        raise ValueError(f"data_root: dataset: {recipe.dataset} needs the {what}'s path here")
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

    from etfhead.experiment.training.optimization import build_optimizer, build_scheduler

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


def _num_classes(recipe: Recipe) -> int:
    from etfhead.experiment.data.choose_classes import check_chosen
    from etfhead.experiment.data.corrupt import class_flips

    count = _classes_of_data(recipe)
    if recipe.classes is not None:
        check_chosen(recipe.classes, count)
        count = len(recipe.classes)
    if recipe.noise_kind == "asymmetric":
        class_flips(recipe, count)
    return count


def _classes_of_data(recipe: Recipe) -> int:
    if recipe.dataset == "npz":
        from etfhead.experiment.data.npz import count_npz_classes

        return count_npz_classes(recipe.data_root)
    if recipe.dataset == "multilabel_npz":
        from etfhead.experiment.data.multilabel_npz import count_npz_labels

        return count_npz_labels(recipe.data_root)
    if recipe.dataset == "regression_npz":
        from etfhead.experiment.data.regression_npz import count_npz_targets

        return count_npz_targets(recipe.data_root)
    if recipe.dataset == "image_folder":
        from etfhead.experiment.data.folder import folder_classes

        return len(folder_classes(recipe.data_root))
    return _NUM_CLASSES[recipe.dataset]


def _check_models(recipe: Recipe) -> int:
    from etfhead.experiment.training.arms import build_loss
    from etfhead.experiment.training.class_losses import LossFacts

    num_classes = _num_classes(recipe)
    stock = replace(recipe, pretrained=False, initial_checkpoint=None)
    sizes = {}
    for name, arm in recipe.arms.items():
        try:
            model = _build(stock, arm, num_classes)
            # Off the meta device: a loss may look into what it is given.
            if not arm.fused:
                build_loss(stock, arm, model, LossFacts.stand_in(num_classes))
            if name == recipe.baseline:
                _check_images(stock, arm, model, num_classes)
        except ValueError as error:
            raise ValueError(
                str(error) if str(error).startswith("model:") else f"arm {name!r}: {error}"
            ) from error
        sizes[name] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return sizes[recipe.baseline]


def _check_images(recipe: Recipe, arm: Arm, model: nn.Module, num_classes: int) -> None:
    """Whether the model takes images of this size: what the meta device refuses is tried in memory."""
    import torch

    from etfhead.experiment.training.arms import build_model
    from etfhead.experiment.training.dry_run import try_forward

    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    shape = (2, recipe.in_chans, recipe.img_size, recipe.img_size)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        if device.type == "meta":
            try:
                model.eval()(torch.zeros(shape, device=device))
            except Exception:  # a trunk may read numbers back, which meta tensors have not
                model = build_model(recipe, arm, num_classes, seed=0)
            else:
                return
        try_forward(model.eval(), torch.zeros(shape), recipe)


def _build(recipe: Recipe, arm: Arm, num_classes: int) -> nn.Module:
    import torch

    from etfhead.experiment.training.arms import build_model

    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build_model(recipe, arm, num_classes, seed=0)
        except ValueError as error:
            # Older timm reads numbers back from tensors that it makes on the way, such as rates of drop path.
            if not isinstance(error.__cause__, RuntimeError) or "meta tensor" not in str(error):
                raise
        return build_model(recipe, arm, num_classes, seed=0)
