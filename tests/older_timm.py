"""What the oldest timm that etfhead takes does otherwise than today's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import timm.loss
from safetensors.torch import load_file
from timm.models import _hub
from torch import nn

from etfhead.experiment.recipe import Recipe

HAS_LOCAL_DIR = hasattr(_hub, "load_model_config_from_path")  # from 1.0.16 on
ABSENT_LOSSES = {
    name
    for name, kind in {"zlpr": "ZlprLoss", "two_way": "TwoWayLoss"}.items()
    if not hasattr(timm.loss, kind)  # from 1.0.31 on
}
needs_local_dir = pytest.mark.skipif(
    not HAS_LOCAL_DIR, reason=f"timm {timm.__version__} does not know local-dir; 1.0.16 does"
)


def loss_cases(*names: str) -> list:
    """Names of losses as parameters of a test; those that the installed timm lacks are skipped."""
    reason = f"timm {timm.__version__} does not have it; 1.0.31 does"
    return [
        pytest.param(name, marks=pytest.mark.skipif(name in ABSENT_LOSSES, reason=reason)) for name in names
    ]


def runnable(recipe: Recipe) -> Recipe:
    """The recipe without the arms whose loss the installed timm lacks, as the refusal of them advises."""
    return replace(recipe, arms={k: arm for k, arm in recipe.arms.items() if arm.loss not in ABSENT_LOSSES})


def from_folder(folder: Path) -> nn.Module:
    """A stock model from a folder that timm or an export wrote: the two steps of the card, or one."""
    if HAS_LOCAL_DIR:
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = json.loads((folder / "config.json").read_text())
    options = {"num_classes": config["num_classes"], **config.get("model_args", {})}
    model = timm.create_model(config["architecture"], **options)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
