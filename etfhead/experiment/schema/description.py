"""What a recipe says of itself once other data or another model were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etfhead.experiment.task import FROM_A_PATH

__all__ = ["COPIED", "redescribed"]

COPIED = "copied from "
_WITH = ", with "


def redescribed(before: Mapping[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The values with a description that still holds: of other data or another model the file's does not.

    A path is left out: descriptions are published with models.

    Args:
        before: Values of the recipe file.
        after: The same after the overrides.

    >>> file = {"name": "quickstart", "description": "on digits", "dataset": "digits", "model": "resnet18"}
    >>> redescribed(file, {**file, "dataset": "npz", "data_root": "my.npz"})["description"]
    'quickstart, with dataset=npz'
    >>> redescribed(file, {**file, "epochs": 3})["description"]
    'on digits'
    """
    text = before.get("description")
    if not isinstance(text, str) or not text or after.get("description") != text:
        return after
    changed = {key for key in ("dataset", "data_root", "model") if after.get(key) != before.get(key)}
    # Elsewhere the folder says where data are, not which.
    if "data_root" in changed and after.get("dataset") in FROM_A_PATH:
        changed.add("dataset")
    told = [f"{key}={after.get(key)}" for key in ("dataset", "model") if key in changed]
    if not told:
        return after
    subject = text.partition(_WITH)[0] if text.startswith(COPIED) else after.get("name")
    return {**after, "description": f"{subject}{_WITH}{', '.join(told)}"}
