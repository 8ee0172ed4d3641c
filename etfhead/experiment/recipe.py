"""What a comparison is: one model, data and budget, several arms that differ only in head and loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from etfhead.experiment.arm import Arm
from etfhead.experiment.checks import check_bounds, check_recipe
from etfhead.experiment.data_knobs import DataKnobs
from etfhead.experiment.knob import knob
from etfhead.experiment.long_tail_knobs import LongTailKnobs
from etfhead.experiment.model_knobs import ModelKnobs
from etfhead.experiment.noise_knobs import NoiseKnobs

__all__ = ["Arm", "Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe(LongTailKnobs, NoiseKnobs, DataKnobs, ModelKnobs):
    """A comparison, fully resolved. Names are timm's where timm has the knob.

    Every field is one flat YAML key; ``etfhead show quickstart`` prints them all with their comments.

    Raises:
        ValueError: If a value is out of range or fields contradict each other.
    """

    no_aug: bool = field(
        default=True,
        metadata=knob(
            "true = resize only, none of the augmentation below except mixup and cutmix",
            group="Augmentation of training images (timm.data.create_transform)",
        ),
    )
    crop_padding: int = field(
        default=0, metadata=knob("random crop after padding by these pixels, instead of scale/ratio", ge=0)
    )
    scale: tuple[float, float] = field(
        default=(0.08, 1.0), metadata=knob("area of the random resized crop", gt=0, le=1)
    )
    ratio: tuple[float, float] = field(
        default=(0.75, 1.3333), metadata=knob("aspect ratio of the random resized crop", gt=0)
    )
    hflip: float = field(default=0.5, metadata=knob("probability of a left-right flip", ge=0, le=1))
    vflip: float = field(default=0.0, metadata=knob("probability of an upside-down flip", ge=0, le=1))
    color_jitter: float | None = field(default=None, metadata=knob("strength, null = none", ge=0))
    aa: str | None = field(default=None, metadata=knob("AutoAugment policy, e.g. rand-m9-mstd0.5"))
    reprob: float = field(default=0.0, metadata=knob("probability of random erasing", ge=0, le=1))
    interpolation: Literal["bilinear", "bicubic", "nearest"] = field(
        default="bilinear", metadata=knob("bilinear, bicubic or nearest")
    )
    crop_pct: float = field(
        default=1.0, metadata=knob("centre part of the image used for validation and test", gt=0, le=1)
    )
    mean: tuple[float, ...] | None = field(
        default=None, metadata=knob("one number a channel; null = the data set's or model's own")
    )
    std: tuple[float, ...] | None = field(default=None, metadata=knob("one number a channel", gt=0))
    mixup: float = field(default=0.0, metadata=knob("alpha of mixup, 0 = off", ge=0))
    cutmix: float = field(default=0.0, metadata=knob("alpha of cutmix, 0 = off", ge=0))

    epochs: int = field(
        metadata=knob(
            "passes over the training images", group="Optimisation (timm.optim, timm.scheduler)", ge=1
        )
    )
    opt: str = field(default="adamw", metadata=knob("any name of timm.optim.list_optimizers()"))
    lr: float = field(default=1e-3, metadata=knob("learning rate after warm-up", gt=0))
    weight_decay: float = field(default=0.05, metadata=knob("not applied to biases and norms", ge=0))
    momentum: float = field(
        default=0.9, metadata=knob("for optimizers that have one, such as sgd", ge=0, lt=1)
    )
    sched: str = field(default="cosine", metadata=knob("cosine, step, multistep, poly, tanh or none"))
    warmup_epochs: int = field(default=0, metadata=knob("epochs of linear warm-up", ge=0))
    warmup_lr: float = field(default=1e-5, metadata=knob("learning rate where the warm-up starts", ge=0))
    min_lr: float = field(default=0.0, metadata=knob("learning rate where the schedule ends", ge=0))
    decay_epochs: int | None = field(
        default=None, metadata=knob("sched step: epochs between two decays", ge=1)
    )
    decay_milestones: tuple[int, ...] | None = field(
        default=None, metadata=knob("sched multistep: epochs of the decays", ge=1)
    )
    decay_rate: float = field(
        default=0.1, metadata=knob("sched step and multistep: factor of a decay", gt=0, lt=1)
    )
    clip_grad: float | None = field(
        default=None, metadata=knob("largest gradient norm, null = no clipping", gt=0)
    )
    smoothing: float = field(default=0.0, metadata=knob("label smoothing of the cross-entropy", ge=0, lt=1))
    model_ema: bool = field(default=False, metadata=knob("evaluate a moving average of the weights"))
    model_ema_decay: float = field(default=0.998, metadata=knob("decay of that average a step", gt=0, lt=1))

    cpu: bool = field(default=False, metadata=knob("stay on the CPU even if there is a GPU", group="Device"))
    amp_dtype: Literal["bfloat16", "float16"] | None = field(
        default=None, metadata=knob("bfloat16 or float16 mixed precision; null = float32")
    )
    channels_last: bool = field(default=False, metadata=knob("memory layout, often faster for CNNs on GPUs"))
    torchcompile: bool = field(default=False, metadata=knob("torch.compile the model"))

    collapse_every: int = field(
        default=1,
        metadata=knob(
            "epochs between two measurements of collapse, 0 = none, as always on multi-label data",
            group="Collapse (on training images without augmentation, not on the training clock)",
            ge=0,
        ),
    )
    collapse_images: int = field(
        default=2000,
        metadata=knob("on how many of them, every class in proportion; at least twice the classes", ge=2),
    )

    seeds: tuple[int, ...] = field(
        default=(0, 1, 2),
        metadata=knob("every arm runs with each of these", group="Comparison", ge=0, lt=2**32),
    )
    settings: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata=knob("a study: the comparison again for each of these, {name: {key: value of this recipe}}"),
    )
    arms: dict[str, Arm] = field(
        metadata=knob("the contenders: same model, data and budget, other head or loss")
    )
    baseline: str = field(metadata=knob("the arm that the others are compared with"))
    primary_metric: Literal["top1", "exact_match", "map", "r2"] | None = field(
        default=None,
        metadata=knob(
            "chooses the best epoch, carries the verdict: top1, exact_match, map or r2; null = by data"
        ),
    )
    target_accuracy: float | None = field(
        default=None,
        metadata=knob(
            "time to this validation accuracy in %; null = 1 below the baseline's best", gt=0, le=100
        ),
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        check_recipe(self)
