"""What determines the numbers of one arm and seed, so that a checkpoint can be told from another run's."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etfhead._version import __version__
from etfhead.experiment.recipe import Recipe

__all__ = ["differences", "make_fingerprint", "recorded_differences", "shared_settings"]

# Words, the choice of arms and seeds, and where files lie: none of these changes an arm's numbers.
# Initial weights count by their content, not by their path.
_IRRELEVANT = frozenset(
    {
        "name",
        "description",
        "arms",
        "settings",
        "seeds",
        "baseline",
        "target_accuracy",
        "workers",
        "data_root",
        "ood_root",
        "download",
        "unreadable_images",
        "initial_checkpoint",
    }
)


def shared_settings(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that every arm shares and that decides its numbers, JSON-able."""
    settings = dataclasses.asdict(recipe)
    return {key: _plain(value) for key, value in settings.items() if key not in _IRRELEVANT}


def make_fingerprint(
    recipe: Recipe, arm: str, seed: int, *, data_digest: str, processes: int = 1
) -> dict[str, Any]:
    """Everything that determines the run of one arm and seed, as flat JSON-able keys.

    Args:
        recipe: The resolved recipe.
        arm: Name of the arm.
        seed: Seed of the run.
        data_digest: Digest of the split indices and labels.
        processes: Number of processes that share a batch (batch-norm statistics depend on it).
    """
    checkpoint = recipe.initial_checkpoint
    options = {f"arms.{arm}.{key}": _plain(value) for key, value in vars(recipe.arms[arm]).items()}
    return {
        "etfhead": __version__,
        **shared_settings(recipe),
        "arm": arm,
        **options,
        "seed": seed,
        "data_digest": data_digest,
        "initial_weights": None if checkpoint is None else _digest(Path(checkpoint).expanduser()),
        "processes": processes,
    }


def recorded_differences(recipe: Recipe, arm: str, seed: int, recorded: Mapping[str, Any], data: Any) -> str:
    """Where the recipe and data facts of a run folder are not those that an arm's result was made with.

    Args:
        recipe: Read back from the folder.
        arm: Name of the arm.
        seed: Its seed.
        recorded: ``fingerprint`` of its ``result.json``; of another version of etfhead it is not compared.
        data: ``digest`` of the folder's ``data.json``.

    Returns:
        str: As :func:`differences`; empty when they agree.
    """
    if recorded.get("etfhead") != __version__:
        return ""
    options = {f"arms.{arm}.{key}": _plain(value) for key, value in vars(recipe.arms[arm]).items()}
    now = {**shared_settings(recipe), "arm": arm, **options, "seed": seed}
    if not recipe.redraw:  # else every seed has a digest of its own
        now["data_digest"] = data
    return differences(
        {key: recorded[key] for key in now if key in recorded},
        {key: now[key] for key in now if key in recorded},
    )


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the keys in which two fingerprints differ, with both values; empty when they agree.

    >>> differences({"lr": 0.1, "opt": "sgd"}, {"lr": 0.2, "opt": "sgd"})
    'lr is 0.1 there, 0.2 now'
    """
    keys = sorted(found.keys() | wanted.keys())
    return "; ".join(
        f"{key} is {found.get(key)!r} there, {wanted.get(key)!r} now"
        for key in keys
        if found.get(key) != wanted.get(key)
    )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """Tuples as lists, so that a fingerprint equals the one read back from JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
