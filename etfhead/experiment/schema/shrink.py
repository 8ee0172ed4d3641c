"""The same comparison in seconds: every option of the recipe on a tiny model and generated images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.task import is_regression

__all__ = ["smoke"]

_RANK = 4  # of a correction: the generated images have ten classes
_CLASSES = 10  # of the generated images
_SETTINGS = 2  # of a study
_FACTOR = 4.0  # of a long tail: a generated class has 28 training images
# By what the name of a data set begins with.
_SYNTHETIC: dict[str, Any] = {"multilabel": "multilabel_synthetic", "regression": "regression_synthetic"}
# What a setting must not bring back: data, size and model.
_MADE_TINY = frozenset(
    {
        "model",
        "pretrained",
        "initial_checkpoint",
        "img_size",
        "in_chans",
        "model_kwargs",
        "trainable",
        "dataset",
        "data_root",
        "download",
        "unreadable_images",
        "ood_dataset",
        "ood_root",
        "train_images_per_set",
        "eval_images_per_set",
        "train_limit",
        "batch_size",
        "workers",
        "mean",
        "std",
        "epochs",
        "warmup_epochs",
        "classes",
        "imbalance_factor",
        "imbalance_max",
        "noise_flips",
        "labels_file",
        "clean_labels_file",
        "decay_epochs",
        "decay_milestones",
        "cpu",
        "amp_dtype",
        "channels_last",
        "torchcompile",
    }
)
_LAST_STAGE = ("conv_head", "bn2")  # of the model below


def smoke(recipe: Recipe) -> Recipe:
    """Return a recipe that runs in seconds on the CPU without any download.

    Model, data and budget become tiny; arms, augmentation, mixup, smoothing, optimizer, schedule and EMA
    stay, so that a smoke run exercises what the recipe itself would.

    Args:
        recipe: Any recipe.

    >>> from etfhead.experiment.schema import load_recipe
    >>> smoke(load_recipe("quickstart")).name
    'quickstart-smoke'
    """
    name = recipe.name.removesuffix("-smoke")  # a smoke run that goes on keeps its name
    epochs, regression = 2, is_regression(recipe.dataset)
    small = regression or recipe.model.startswith("etfhead_")
    few = list(recipe.settings.items())[:_SETTINGS]
    return replace(
        recipe,
        settings={name: {k: v for k, v in changes.items() if k not in _MADE_TINY} for name, changes in few},
        name=f"{name}-smoke",
        description=f"smoke run of {name}: a tiny model on generated data",
        model="etfhead_mlp" if small else "test_efficientnet",
        pretrained=False,
        initial_checkpoint=None,
        img_size=1 if regression else 32,
        in_chans=3,
        model_kwargs={"widths": [16], "linear_widths": [8 if regression else 16]} if small else {},
        trainable=None if small or recipe.trainable is None else _LAST_STAGE,
        dataset=_SYNTHETIC.get(recipe.dataset.partition("_")[0], "synthetic"),
        data_root=None,
        download=False,
        unreadable_images="leave_out",
        ood_dataset=None if recipe.ood_dataset is None else "digits",
        ood_root=None,
        classes=None if recipe.classes is None else tuple(range(min(len(recipe.classes), _CLASSES))),
        **_drawn_noise(recipe),
        imbalance_factor=recipe.imbalance_factor and min(recipe.imbalance_factor, _FACTOR),
        imbalance_max=None,
        train_images_per_set=None,
        eval_images_per_set=None,
        train_limit=128 if recipe.train_limit else None,
        batch_size=min(recipe.batch_size, 32),
        workers=0,
        crop_padding=min(recipe.crop_padding, 4),
        mean=None,
        std=None,
        epochs=epochs,
        warmup_epochs=min(recipe.warmup_epochs, epochs - 1),
        cpu=True,
        amp_dtype=None,
        channels_last=False,
        torchcompile=False,
        seeds=_two(recipe.seeds),
        arms={name: _small(arm) for name, arm in recipe.arms.items()},
    )


def _drawn_noise(recipe: Recipe) -> dict[str, Any]:
    """Between classes that there are, and drawn where it would come from a file."""
    changes: dict[str, Any] = {"noise_flips": {}, "labels_file": None, "clean_labels_file": None}
    if recipe.labels_file is not None or recipe.clean_labels_file is not None:
        changes |= {"noise_kind": "symmetric", "noise_rate": 0.2}
    return changes


def _small(arm: Arm) -> Arm:
    return replace(arm, low_rank=min(arm.low_rank, _RANK)) if arm.low_rank else arm


def _two(seeds: tuple[int, ...]) -> tuple[int, ...]:
    return seeds[:2] if len(seeds) > 1 else (seeds[0], (seeds[0] + 1) % 2**32)
