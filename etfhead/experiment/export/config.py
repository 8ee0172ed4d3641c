"""``config.json`` of an export: timm's fields, and one more key that timm does not read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from etfhead._version import __version__
from etfhead.experiment.export.trained import TrainedModel
from etfhead.experiment.report.records import number
from etfhead.experiment.report.score import score_of_recipe
from etfhead.frames import Frame
from etfhead.surgery import find_heads

__all__ = ["describe_heads", "model_config", "pack_readout", "unpack_readout"]

# Facts of the weights that a timm entry is about, not of those trained here.
_OF_OTHER_WEIGHTS = (
    "url",
    "file",
    "state_dict",
    "hf_hub_id",
    "hf_hub_filename",
    "source",
    "tag",
    "license",
    "description",
    "origin_url",
    "paper_name",
    "paper_ids",
    "notes",
    "label_offset",
    "label_names",
    "label_descriptions",
    "min_input_size",
    "pool_size",
    "test_input_size",
    "test_crop_pct",
    "test_pool_size",
)


def model_config(trained: TrainedModel, heads: Mapping[str, Any], format_name: str) -> dict[str, Any]:
    """The content of ``config.json``, as ``timm.models.save_for_hf`` lays it out.

    ``architecture``, ``num_classes``, ``num_features``, ``label_names``, ``model_args`` and
    ``pretrained_cfg`` are timm's. ``etfhead`` tells where the weights are from: run, data, head and figures,
    and on multi-label data how label sets are decided.

    Args:
        trained: The model.
        heads: From :func:`describe_heads`, before the heads were folded.
        format_name: The export's format.
    """
    from timm.models import split_model_name_tag

    recipe, model = trained.recipe, trained.model
    config: dict[str, Any] = {
        "architecture": split_model_name_tag(recipe.model)[0],
        "num_classes": len(trained.class_names),
    }
    pool: Any = getattr(model, "global_pool", None)
    told = {
        "num_features": getattr(model, "num_features", None),
        "global_pool": getattr(pool, "pool_type", pool),
    }
    config |= {name: value for name, value in told.items() if isinstance(value, int | str) and value}
    pretrained_cfg = _pretrained_cfg(model)
    pretrained_cfg |= {**trained.data_config, "num_classes": len(trained.class_names), "custom_load": False}
    args: dict[str, Any] = {"in_chans": recipe.in_chans}
    if pretrained_cfg.get("fixed_input_size"):
        args["img_size"] = recipe.img_size
    config["label_names"] = list(trained.class_names)
    config["model_args"] = {**args, **recipe.model_kwargs}
    config["pretrained_cfg"] = pretrained_cfg
    config["etfhead"] = _origin(trained, heads, format_name)
    return config


def _pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    known = dict(config) if isinstance(config, Mapping) else dict(vars(config))
    known.pop("architecture", None)
    return {key: value for key, value in known.items() if key not in _OF_OTHER_WEIGHTS and value is not None}


def _origin(trained: TrainedModel, heads: Mapping[str, Any], format_name: str) -> dict[str, Any]:
    recipe, choice, data = trained.recipe, trained.choice, trained.records.data
    score = score_of_recipe(trained.records.recipe)
    tested = trained.result.get(choice.weights) or {}
    figures = {key: value for key in score.test if (value := number(tested, key)) is not None}
    if choice.validation is not None:
        figures = {score.val: choice.validation, **figures}
    origin: dict[str, Any] = {
        "version": __version__,
        "format": format_name,
        "run": recipe.name,
        "arm": choice.arm,
        "seed": choice.seed,
        "weights": choice.weights,
        "epoch": choice.epoch,
        "settings": {key: value for key, value in vars(trained.arm).items() if value is not None},
        "heads": dict(heads),
        "data": {key: data.get(key) for key in ("dataset", "sizes", "digest")},
        "figures": figures,
    }
    if trained.readout is not None:
        origin["readout"] = pack_readout(trained.readout)
    return origin


def describe_heads(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Kind, frame and scale of every etfhead head of a model, by name, JSON-able.

    >>> describe_heads(nn.Linear(4, 2))
    {}
    """
    described = {}
    for name, head in find_heads(model).items():
        entry: dict[str, Any] = {
            "type": type(head).__name__,
            "in_features": head.in_features,
            "neck": "none" if head.neck is None else "batchnorm",
        }
        frame = getattr(head, "frame", None)
        if isinstance(frame, Frame):
            entry["frame"] = frame.spec()
        scale = getattr(head, "scale", None)
        if isinstance(scale, Tensor) and scale.numel() == 1:
            entry["scale"] = scale.item()
        described[name] = entry
    return described


def pack_readout(readout: Mapping[str, Any]) -> dict[str, Any]:
    """Thresholds and prototypes as JSON: tensors by type and values, numbers as they are.

    >>> pack_readout({"gaps": torch.tensor([0.5, math.inf]), "threshold": 0.25, "offsets": None})
    {'gaps': {'dtype': 'float32', 'values': [0.5, 'inf']}, 'threshold': 0.25, 'offsets': None}
    """
    return {
        key: {"dtype": str(value.dtype).removeprefix("torch."), "values": _finite(value.tolist())}
        if isinstance(value, Tensor)
        else _finite(value)
        for key, value in readout.items()
    }


def unpack_readout(packed: Mapping[str, Any]) -> dict[str, Any]:
    """The readout of :func:`pack_readout`.

    Raises:
        ValueError: If it is not one.

    >>> unpack_readout({"gaps": {"dtype": "float32", "values": [0.5, "inf"]}, "threshold": 0.25})
    {'gaps': tensor([0.5000,    inf]), 'threshold': 0.25}
    """
    readout: dict[str, Any] = {}
    for key, value in packed.items():
        if not isinstance(value, Mapping):
            readout[key] = float(value) if isinstance(value, str) else value
            continue
        dtype = getattr(torch, str(value.get("dtype")), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"readout: {key} is of type {value.get('dtype')!r}; config.json is damaged")
        readout[key] = torch.tensor(_numbers(value.get("values")), dtype=dtype)
    return readout


def _finite(value: Any) -> Any:
    # JSON has no infinity, and a class that was never seen has an infinite threshold.
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) else value
