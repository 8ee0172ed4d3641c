"""The fields of a recipe that name it and choose the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from etfhead.experiment.knob import knob

__all__ = ["ModelKnobs"]


@dataclass(frozen=True, kw_only=True)
class ModelKnobs:
    """Name and model of a comparison; see :class:`~etfhead.experiment.recipe.Recipe`."""

    name: str = field(metadata=knob("also the default run folder, runs/<name>"))
    description: str = field(default="", metadata=knob("one line, shown by `etfhead ls`"))

    model: str = field(metadata=knob("any name of timm.list_models()", group="Model (timm.create_model)"))
    pretrained: bool = field(default=False, metadata=knob("start from timm's weights (downloaded once)"))
    initial_checkpoint: str | None = field(default=None, metadata=knob("or from this local weights file"))
    img_size: int = field(metadata=knob("height and width of the model's input in pixels", ge=1))
    in_chans: int = field(default=3, metadata=knob("channels; 1 = grey, 3 = RGB", ge=1))
    drop: float = field(default=0.0, metadata=knob("dropout rate before the classifier", ge=0, lt=1))
    drop_path: float = field(default=0.0, metadata=knob("stochastic depth rate", ge=0, lt=1))
    model_kwargs: dict[str, Any] = field(
        default_factory=dict, metadata=knob("more arguments of the model, e.g. {patch_size: 4}")
    )
    trainable: tuple[str, ...] | None = field(
        default=None,
        metadata=knob("parts that train beside the head, e.g. [blocks.6, conv_head]; null = all"),
    )
