"""Settings, data and environment of a run as two-column tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.report.document import Table
from etfhead.experiment.report.formatting import MISSING
from etfhead.experiment.terminal import shown

__all__ = ["arm_options", "data_table", "environment_table", "settings_table", "started_with"]

# What decides a result, in reading order; the rest of the recipe is in recipe.yaml.
_SETTINGS = (
    "model",
    "pretrained",
    "initial_checkpoint",
    "trainable",
    "img_size",
    "dataset",
    "train_images_per_set",
    "eval_images_per_set",
    "train_limit",
    "val_fraction",
    "classes",
    "noise_kind",
    "noise_rate",
    "noise_include_true",
    "noise_exact",
    "noise_flips",
    "labels_file",
    "clean_labels_file",
    "redraw",
    "epochs",
    "batch_size",
    "opt",
    "lr",
    "weight_decay",
    "sched",
    "warmup_epochs",
    "smoothing",
    "no_aug",
    "crop_padding",
    "hflip",
    "aa",
    "reprob",
    "mixup",
    "cutmix",
    "drop",
    "drop_path",
    "clip_grad",
    "model_ema",
    "amp_dtype",
    "torchcompile",
    "primary_metric",
    "seeds",
    "baseline",
)
_AUGMENTATION = ("crop_padding", "hflip", "aa", "reprob")
# A list of its own, and what is too long for a line: matrices, and the draws of every seed.
_NOT_IN_THE_TABLE = ("notes", "label_transition", "draws")
_TWO_WORDS = frozenset({0, 1})


def arm_options(
    arms: Mapping[str, Mapping[str, Any] | None],
) -> tuple[list[str], list[list[str]], list[str]]:
    """Header and rows of the options that set arms apart, and in words those that do not.

    An option that one of two arms with the same head and loss lacks sets them apart.
    """
    given = {
        arm: {key: value for key, value in (options or {}).items() if value is not None}
        for arm, options in arms.items()
    }
    values: dict[str, list[Any]] = {"head": []}
    for options in given.values():
        for key, value in options.items():
            values.setdefault(key, []).append(value)
    apart = [
        key
        for key, found in values.items()
        if key == "head" or any(v != found[0] for v in found) or _lacking(key, list(given.values()))
    ]
    shared = [f"{key}: {found[0]}" for key, found in values.items() if key not in apart]
    rows = [[arm, *(str(options.get(key, MISSING)) for key in apart)] for arm, options in given.items()]
    return ["arm", *apart], rows, shared


def _lacking(key: str, arms: Sequence[Mapping[str, Any]]) -> bool:
    having = {(arm.get("head"), arm.get("loss")) for arm in arms if key in arm}
    return any((arm.get("head"), arm.get("loss")) in having for arm in arms if key not in arm)


def settings_table(recipe: Mapping[str, Any], data: Mapping[str, Any]) -> Table:
    """The settings all arms share, without the knobs that are off or that the data leave without effect."""
    rows = []
    for key in _SETTINGS:
        if key in data and data[key] is None:
            continue
        value = recipe.get(key)
        off = value is None or value == {} or (key in _AUGMENTATION and recipe.get("no_aug"))
        if not off and (value not in (False, 0, 0.0) or key in ("pretrained", "weight_decay")):
            rows.append([key, _show(value) or "none"])
    return Table(["setting", "value"], rows, _TWO_WORDS)


def data_table(data: Mapping[str, Any]) -> Table | None:
    """What was trained and tested on; ``None`` where the run did not record it."""
    return _facts({key: value for key, value in data.items() if key not in _NOT_IN_THE_TABLE})


def environment_table(environment: Mapping[str, Any]) -> Table | None:
    """Versions and hardware; the command has a section of its own."""
    return _facts({key: value for key, value in environment.items() if key != "command"})


def started_with(environment: Mapping[str, Any]) -> str | None:
    """The command of a run in one line, to copy; None if it was started from Python."""
    command = environment.get("command")
    return shown(command) if isinstance(command, str) and len(command.split()) > 1 else None


def _facts(facts: Mapping[str, Any]) -> Table | None:
    rows = [[key, _show(value)] for key, value in _flat(facts) if value is not None and value != []]
    return Table(["fact", "value"], rows, _TWO_WORDS) if rows else None


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def _show(value: Any) -> str:
    """One short line, however long the value.

    >>> _show(True), _show([3, 4]), _show(list(range(100)))
    ('yes', '3, 4', '100 values from 0 to 99')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    if len(value) <= 12:
        return ", ".join(_show(item) for item in value)
    if all(isinstance(item, int | float) for item in value):
        return f"{len(value)} values from {min(value)} to {max(value)}"
    return f"{len(value)} values: {value[0]}, {value[1]}, … {value[-1]}"
