"""Rules a recipe obeys beyond its types: ranges of one field, and fields that exclude each other."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING

from etfhead.experiment.arm_checks import STATEFUL_LOSSES, check_task
from etfhead.experiment.field_error import FieldError
from etfhead.experiment.long_tail_checks import check_long_tail
from etfhead.experiment.noise_checks import check_noise
from etfhead.experiment.ood_checks import DOWNLOADED, check_ood
from etfhead.experiment.regression_checks import check_regression
from etfhead.experiment.task import COMPOSED, is_multilabel, is_regression

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Arm, Recipe

__all__ = ["OF_THE_STUDY", "RESERVED_MODEL_KWARGS", "check_bounds", "check_recipe", "is_run_name"]

# Keys that all settings of a study share: what is compared.
OF_THE_STUDY = ("name", "description", "arms", "seeds", "baseline", "settings", "primary_metric")

# Dots are left out of arm names because overrides separate keys with them.
_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

# Arguments of timm.create_model that other keys own, or that would load files unchecked.
RESERVED_MODEL_KWARGS = {
    "cache_dir",
    "checkpoint_path",
    "in_chans",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
}
_SYMBOLS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _inside(value: float, bounds: dict[str, float]) -> bool:
    holds = {"gt": value > bounds.get("gt", 0), "ge": value >= bounds.get("ge", 0)}
    holds |= {"lt": value < bounds.get("lt", 0), "le": value <= bounds.get("le", 0)}
    return math.isfinite(value) and all(holds[name] for name in bounds)


def _is_huge(number: float) -> bool:
    return isinstance(number, int) and abs(number) >= 2**63  # float() and tensors stop somewhere above


def check_bounds(record: Arm | Recipe) -> None:
    """Hold every number of a record against the bounds beside its field.

    Raises:
        FieldError: If a number, or one of a field's numbers, is outside its bounds or not finite.
    """
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        bounds = field.metadata.get("bounds", {})
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if _is_huge(number):
                raise FieldError((field.name,), "expected a number below 2^63")
            if not _inside(number, bounds):
                wanted = " and ".join(f"{_SYMBOLS[name]} {bound:g}" for name, bound in bounds.items())
                raise FieldError(
                    (field.name,), f"expected a number {wanted or 'that is finite'}, got {number}"
                )


def check_recipe(recipe: Recipe) -> None:
    """Check names and the rules that involve several fields.

    Raises:
        FieldError: If a name cannot be a folder's, or two fields contradict each other.
    """
    _check_names(recipe)
    _check_seeds(recipe)
    _check_images(recipe)
    _check_data(recipe)
    check_noise(recipe)
    check_ood(recipe)
    _check_training(recipe)
    _check_task(recipe)
    check_long_tail(recipe)
    _check_settings(recipe)


def is_run_name(name: str) -> bool:
    """Whether a recipe may have this name.

    >>> is_run_name("cats-2"), is_run_name("my cats")
    (True, False)
    """
    return _RUN_NAME.fullmatch(name) is not None


def _check_names(recipe: Recipe) -> None:
    if not is_run_name(recipe.name):
        raise FieldError(
            ("name",), f"expected a folder's name of letters, digits, '_', '-' and '.', got {recipe.name!r}"
        )
    if not recipe.arms:
        raise FieldError(("arms",), "expected at least one arm, got none")
    seen: dict[str, str] = {}
    for name in recipe.arms:
        if not _ARM_NAME.fullmatch(name):
            raise FieldError(
                ("arms", name),
                f"an arm's name is letters, digits, '_' and '-' (it names a folder), got {name!r}",
            )
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise FieldError(
                ("arms", name), f"differs from arm {other!r} only in case: same folder on some disks"
            )
    if recipe.baseline not in recipe.arms:
        raise FieldError(
            ("baseline",), f"expected the name of an arm ({', '.join(recipe.arms)}), got {recipe.baseline!r}"
        )


def _check_seeds(recipe: Recipe) -> None:
    if not recipe.seeds:
        raise FieldError(("seeds",), "expected at least one seed, got an empty list")
    if len(set(recipe.seeds)) < len(recipe.seeds):
        raise FieldError(("seeds",), f"expected different seeds, got {list(recipe.seeds)}")


def _check_images(recipe: Recipe) -> None:
    if recipe.in_chans not in (1, 3) and not is_regression(recipe.dataset):  # a channel a column of a table
        raise FieldError(("in_chans",), f"expected 1 (grey) or 3 (RGB), got {recipe.in_chans}")
    for key in ("mean", "std"):
        values = getattr(recipe, key)
        if values is not None and len(values) != recipe.in_chans:
            raise FieldError(
                (key,), f"expected {recipe.in_chans} number(s), one a channel (in_chans), got {len(values)}"
            )
    if (recipe.mean is None) != (recipe.std is None):
        missing = "mean" if recipe.mean is None else "std"
        raise FieldError((missing,), "mean and std come together: give both or neither")
    for key in ("scale", "ratio"):
        low, high = getattr(recipe, key)
        if low > high:
            raise FieldError((key,), f"expected [smallest, largest], got [{low}, {high}]")
    if recipe.no_aug:
        for key in ("crop_padding", "vflip", "color_jitter", "aa", "reprob"):
            if getattr(recipe, key):
                raise FieldError((key,), "has no effect with no_aug: true; write no_aug: false or remove it")


def _check_data(recipe: Recipe) -> None:
    kind = recipe.dataset.removeprefix("multilabel_")
    if kind in ("digits", "synthetic") and recipe.data_root is not None:
        raise FieldError(("data_root",), f"dataset: {recipe.dataset} reads no folder; remove it")
    local = kind in ("digits", "synthetic", "image_folder", "npz") and recipe.ood_dataset not in DOWNLOADED
    if recipe.download and local:
        raise FieldError(("download",), f"dataset: {recipe.dataset} cannot be downloaded; remove it")
    if recipe.unreadable_images != "leave_out" and "image_folder" not in (recipe.dataset, recipe.ood_dataset):
        raise FieldError(("unreadable_images",), f"dataset: {recipe.dataset} has no image files; remove it")
    for key in ("train_images_per_set", "eval_images_per_set"):
        if getattr(recipe, key) is not None and recipe.dataset not in COMPOSED:
            raise FieldError((key,), f"dataset: {recipe.dataset} is not composed of single images; remove it")


def _check_settings(recipe: Recipe) -> None:
    known = {field.name for field in dataclasses.fields(recipe)}
    for name, changes in recipe.settings.items():
        if not _ARM_NAME.fullmatch(str(name)):
            raise FieldError(
                ("settings", name),
                f"a setting's name is letters, digits, '_' and '-' (it names a folder), got {name!r}",
            )
        if not isinstance(changes, dict):
            raise FieldError(("settings", name), f"expected {{key: value of the recipe}}, got {changes!r}")
        for key in changes:
            if key not in known or key in OF_THE_STUDY:
                why = "is the study's own" if key in OF_THE_STUDY else "is no key of a recipe"
                raise FieldError(("settings", name, str(key)), f"{key!r} {why}; remove it")


def _check_schedule(recipe: Recipe) -> None:
    """A schedule's own options are there, reach into the run, and are not given to another schedule."""
    if recipe.sched == "none" and (recipe.warmup_epochs or recipe.min_lr):
        key = "warmup_epochs" if recipe.warmup_epochs else "min_lr"
        raise FieldError((key,), "sched: none keeps lr constant; remove it or choose a schedule")
    owners = {"decay_epochs": "step", "decay_milestones": "multistep"}
    for key, owner in owners.items():
        value = getattr(recipe, key)
        if recipe.sched != owner:
            if value is not None:
                raise FieldError((key,), f"has no effect with sched: {recipe.sched}; remove it")
            continue
        if not value:
            raise FieldError((key,), f"sched: {owner} needs it, in epochs")
        if max(value if isinstance(value, tuple) else (value,)) >= recipe.epochs:
            raise FieldError((key,), f"expected fewer than epochs ({recipe.epochs}), got {value}")


def _check_training(recipe: Recipe) -> None:
    if recipe.pretrained and recipe.initial_checkpoint is not None:
        raise FieldError(("initial_checkpoint",), "excludes pretrained: true; keep one of them")
    if recipe.warmup_epochs >= recipe.epochs:
        raise FieldError(
            ("warmup_epochs",),
            f"expected fewer than epochs ({recipe.epochs}), got {recipe.warmup_epochs}; pass warmup_epochs=0 "
            "too",
        )
    _check_schedule(recipe)
    if recipe.min_lr > recipe.lr:
        raise FieldError(("min_lr",), f"expected at most lr ({recipe.lr}), got {recipe.min_lr}")
    if reserved := sorted(RESERVED_MODEL_KWARGS & recipe.model_kwargs.keys()):
        raise FieldError(("model_kwargs",), f"{', '.join(reserved)}: the recipe has its own keys for this")
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size % 2:
        raise FieldError(
            ("batch_size",), f"mixup and cutmix pair images: expected an even number, got {recipe.batch_size}"
        )
    _check_arms_in_training(recipe)
    if recipe.cpu and recipe.amp_dtype == "float16":
        raise FieldError(("amp_dtype",), "float16 needs a GPU; with cpu: true write bfloat16 or null")


def _check_arms_in_training(recipe: Recipe) -> None:
    for name, arm in recipe.arms.items():
        if arm.loss in STATEFUL_LOSSES and (recipe.mixup or recipe.cutmix):
            raise FieldError(
                ("arms", name, "loss"), f"{arm.loss} remembers single images; mixup and cutmix mix them"
            )
        if arm.fused and (recipe.mixup or recipe.cutmix):
            raise FieldError(
                ("arms", name, "fused"), "streams one class a sample; mixup and cutmix give two: remove it"
            )
        if arm.head == "guided" and recipe.model_ema:
            reason = f"arm {name!r} turns its simplex, and an average of simplices is none"
            raise FieldError(("model_ema",), f"{reason}: write false or leave the arm out")


def _check_task(recipe: Recipe) -> None:
    """Losses, heads and the metric fit one class an image, or several labels."""
    if is_regression(recipe.dataset):
        check_regression(recipe)
        return
    multilabel = is_multilabel(recipe.dataset)
    for name, arm in recipe.arms.items():
        check_task(name, arm, dataset=recipe.dataset, multilabel=multilabel, smoothing=recipe.smoothing)
    metric = recipe.primary_metric
    if metric is not None and (metric == "r2" or multilabel == (metric == "top1")):
        kind, fits = ("several labels", "exact_match, map") if multilabel else ("one class", "top1")
        raise FieldError(
            ("primary_metric",), f"dataset: {recipe.dataset} has {kind} an image: write {fits} or null"
        )
    if multilabel and (recipe.mixup or recipe.cutmix):
        key = "mixup" if recipe.mixup else "cutmix"
        raise FieldError(
            (key,), "mixes shares of two classes, and label sets are hard; write 0.0 on multi-label data"
        )
