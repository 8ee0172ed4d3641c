"""What a comparison is: one model, data and budget, several arms that differ only in head and loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Arm", "Recipe"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One contender: the classifier head and the loss it is trained with.

    Options left at ``None`` take the head's own default; an option that the chosen head does not have is
    an error, never ignored.

    Args:
        head: ``linear`` (the stock learnable layer), ``cosine`` (learnable unit class vectors) or ``etf``.
        loss: ``cross_entropy`` (with the recipe's ``smoothing``) or ``dot_regression``.
        frame: Frame of the ``etf`` head (``auto``, ``simplex``).
        basis: Orthonormal basis of the frame (``identity``, ``hadamard``, ``haar``).
        neck: ``batchnorm`` or ``none``, for any head.
        normalize: L2-normalise the features (``etf`` only; ``cosine`` always does).
        scale: ``auto`` or a positive number that multiplies the logits (``etf`` and ``cosine``).
        learn_scale: Whether that number is trained.
        class_balanced: Weigh classes equally inside each batch (``dot_regression`` only).
    """

    head: Literal["linear", "cosine", "etf"] = "linear"
    loss: Literal["cross_entropy", "dot_regression"] = "cross_entropy"
    frame: str | None = None
    basis: Literal["identity", "hadamard", "haar"] | None = None
    neck: Literal["batchnorm", "none"] | None = None
    normalize: bool | None = None
    scale: float | Literal["auto"] | None = None
    learn_scale: bool | None = None
    class_balanced: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A comparison, fully resolved. Names are timm's where timm has the knob.

    Every field is one flat YAML key; ``etfhead show quickstart`` prints them all with their comments.
    """

    name: str
    description: str = ""

    # Model (timm.create_model)
    model: str
    pretrained: bool = False
    initial_checkpoint: str | None = None
    img_size: int
    in_chans: int = 3
    drop: float = 0.0
    drop_path: float = 0.0
    model_kwargs: dict[str, Any] = field(default_factory=dict)

    # Data
    dataset: Literal["digits", "fashion_mnist", "cifar10", "cifar100", "image_folder", "synthetic"]
    data_root: str | None = None
    download: bool = False
    val_fraction: float = 0.1
    split_seed: int = 0
    train_limit: int | None = None
    batch_size: int = 128
    workers: int = 0

    # Augmentation (timm.data.create_transform; crop_padding is the small-image crop of CIFAR training)
    no_aug: bool = True
    crop_padding: int = 0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float | None = None
    aa: str | None = None
    reprob: float = 0.0
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    crop_pct: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    mixup: float = 0.0
    cutmix: float = 0.0

    # Optimisation (timm.optim, timm.scheduler)
    epochs: int
    opt: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    sched: str = "cosine"
    warmup_epochs: int = 0
    warmup_lr: float = 1e-5
    min_lr: float = 0.0
    clip_grad: float | None = None
    smoothing: float = 0.0
    model_ema: bool = False
    model_ema_decay: float = 0.998

    # Device
    cpu: bool = False
    amp_dtype: Literal["bfloat16", "float16"] | None = None
    channels_last: bool = False
    torchcompile: bool = False

    # Comparison
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: dict[str, Arm]
    baseline: str
    target_accuracy: float | None = None
