"""What a comparison is: one model, data and budget, several arms that differ only in head and loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from etfhead.experiment.arm_checks import check_arm
from etfhead.experiment.checks import check_bounds, check_recipe

__all__ = ["Arm", "Recipe"]


def _knob(text: str, *, group: str | None = None, **bounds: float) -> dict[str, Any]:
    """A field's comment in YAML, the heading it opens (an arm: who has the option), its bounds."""
    return {"help": text, "group": group, "bounds": bounds}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One contender: the classifier head and the loss it is trained with.

    Options left at ``None`` take the head's own default; an option that the chosen head does not have is
    an error, never ignored. ``etfhead show quickstart`` prints every option with its comment.

    Raises:
        ValueError: If an option does not belong to the head or loss, or is out of range.

    >>> Arm(head="etf", basis="haar").neck is None
    True
    >>> Arm(head="linear", frame="union")
    Traceback (most recent call last):
    etfhead...FieldError: frame: head: linear has no such option; remove it or use head: etf or multilabel_etf
    """

    head: Literal["linear", "cosine", "etf", "multilabel_etf", "class_mean", "delta", "guided"] = field(
        default="linear",
        metadata=_knob(
            "linear, cosine: learnable; etf, multilabel_etf: fixed; class_mean, delta, guided: follow"
        ),
    )
    loss: Literal[
        "cross_entropy",
        "dot_regression",
        "pick_all_label",
        "binary_cross_entropy",
        "asymmetric",
        "zlpr",
        "two_way",
    ] = field(
        default="cross_entropy",
        metadata=_knob(
            "cross_entropy, dot_regression; pick_all_label, binary_cross_entropy, asymmetric, ..."
        ),
    )
    frame: str | None = field(
        default=None,
        metadata=_knob("auto, simplex, orthoplex, union, code or class_means (needs orient)", group="etf"),
    )
    basis: Literal["identity", "hadamard", "haar"] | None = field(
        default=None,
        metadata=_knob("orthonormal basis of the frame: identity, hadamard or haar", group="etf, guided"),
    )
    neck: Literal["batchnorm", "none"] | None = field(
        default=None,
        metadata=_knob("batchnorm (without affine parameters) or none before the head", group="any head"),
    )
    normalize: bool | None = field(
        default=None,
        metadata=_knob(
            "L2-normalise the features, logits are cosines (cosine, class_mean, delta: always)",
            group="etf, guided",
        ),
    )
    scale: float | Literal["auto"] | None = field(
        default=None,
        metadata=_knob("auto or the number that multiplies the logits", group="all but linear", gt=0),
    )
    learn_scale: bool | None = field(
        default=None, metadata=_knob("train that number", group="all but linear")
    )
    orient: Literal["none", "features", "inputs"] | None = field(
        default=None,
        metadata=_knob("start from class means of features or input images; or none", group="any head"),
    )
    exponent: float | None = field(
        default=None,
        metadata=_knob("power of the class means' spectrum, with orient", group="any head", ge=0, le=1),
    )
    low_rank: int | None = field(
        default=None,
        metadata=_knob("rank of a learnable correction of the frame, 0 = none", group="etf", ge=0),
    )
    fused: bool | None = field(
        default=None,
        metadata=_knob("stream logits through the loss, never holding them", group="etf, class_mean, delta"),
    )
    momentum: float | None = field(
        default=None,
        metadata=_knob("share of a running mean that stays", group="class_mean, guided", ge=0, lt=1),
    )
    centre: bool | float | None = field(
        default=None,
        metadata=_knob(
            "take class vectors from the mean of all; or a share of it", group="class_mean", ge=0, le=1
        ),
    )
    repel: float | None = field(
        default=None,
        metadata=_knob("push a sample's closest wrong class vector away, 0 = no", group="class_mean", ge=0),
    )
    rate: float | None = field(
        default=None,
        metadata=_knob("how far a wholly wrong sample moves its class vector", group="delta", gt=0),
    )
    every: int | None = field(
        default=None, metadata=_knob("steps between two turns of the frame", group="guided", ge=1)
    )
    class_balanced: bool | None = field(
        default=None, metadata=_knob("weigh the classes of a batch equally", group="dot_regression")
    )
    pal_normalize: bool | None = field(
        default=None,
        metadata=_knob("divide a sample's loss by its number of labels", group="pick_all_label"),
    )
    decode: Literal["threshold", "nearest", "nearest_cosine", "posterior"] | None = field(
        default=None,
        metadata=_knob(
            "label sets by tuned threshold; pick_all_label: nearest, nearest_cosine or posterior",
            group="multi-label losses",
        ),
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        check_arm(self)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A comparison, fully resolved. Names are timm's where timm has the knob.

    Every field is one flat YAML key; ``etfhead show quickstart`` prints them all with their comments.

    Raises:
        ValueError: If a value is out of range or fields contradict each other.
    """

    name: str = field(metadata=_knob("also the default run folder, runs/<name>"))
    description: str = field(default="", metadata=_knob("one line, shown by `etfhead ls`"))

    model: str = field(metadata=_knob("any name of timm.list_models()", group="Model (timm.create_model)"))
    pretrained: bool = field(default=False, metadata=_knob("start from timm's weights (downloaded once)"))
    initial_checkpoint: str | None = field(default=None, metadata=_knob("or from this local weights file"))
    img_size: int = field(metadata=_knob("height and width of the model's input in pixels", ge=1))
    in_chans: int = field(default=3, metadata=_knob("channels; 1 = grey, 3 = RGB", ge=1))
    drop: float = field(default=0.0, metadata=_knob("dropout rate before the classifier", ge=0, lt=1))
    drop_path: float = field(default=0.0, metadata=_knob("stochastic depth rate", ge=0, lt=1))
    model_kwargs: dict[str, Any] = field(
        default_factory=dict, metadata=_knob("more arguments of the model, e.g. {patch_size: 4}")
    )
    trainable: tuple[str, ...] | None = field(
        default=None,
        metadata=_knob("parts that train beside the head, e.g. [blocks.6, conv_head]; null = all"),
    )

    dataset: Literal[
        "digits",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "image_folder",
        "npz",
        "synthetic",
        "multilabel_digits",
        "multilabel_fashion",
        "multilabel_npz",
        "multilabel_synthetic",
    ] = field(
        metadata=_knob(
            "digits, fashion_mnist, cifar10, cifar100, image_folder, npz, multilabel_digits, ...",
            group="Data",
        )
    )
    data_root: str | None = field(
        default=None, metadata=_knob("folder (npz: file) of the data; null = the usual places")
    )
    download: bool = field(default=False, metadata=_knob("download the data if the folder lacks it"))
    val_fraction: float = field(
        default=0.1, metadata=_knob("part of the training images kept for validation", gt=0, lt=1)
    )
    split_seed: int = field(
        default=0, metadata=_knob("draws that part; the same for every arm and seed", ge=0, lt=2**32)
    )
    train_limit: int | None = field(
        default=None,
        metadata=_knob("train on this many images only, every class in proportion; null = all", ge=1),
    )
    train_images_per_set: tuple[int, ...] | None = field(
        default=None,
        metadata=_knob(
            "composed label sets: images of each single label, pair, triple ...; null = its own",
            ge=0,
        ),
    )
    eval_images_per_set: tuple[int, ...] | None = field(
        default=None, metadata=_knob("the same of the validation and of the test part", ge=0)
    )
    batch_size: int = field(default=128, metadata=_knob("images a step; batch norm needs two", ge=2))
    workers: int = field(default=0, metadata=_knob("loading processes; results do not depend on it", ge=0))

    no_aug: bool = field(
        default=True,
        metadata=_knob(
            "true = resize only, none of the augmentation below except mixup and cutmix",
            group="Augmentation of training images (timm.data.create_transform)",
        ),
    )
    crop_padding: int = field(
        default=0, metadata=_knob("random crop after padding by these pixels, instead of scale/ratio", ge=0)
    )
    scale: tuple[float, float] = field(
        default=(0.08, 1.0), metadata=_knob("area of the random resized crop", gt=0, le=1)
    )
    ratio: tuple[float, float] = field(
        default=(0.75, 1.3333), metadata=_knob("aspect ratio of the random resized crop", gt=0)
    )
    hflip: float = field(default=0.5, metadata=_knob("probability of a left-right flip", ge=0, le=1))
    vflip: float = field(default=0.0, metadata=_knob("probability of an upside-down flip", ge=0, le=1))
    color_jitter: float | None = field(default=None, metadata=_knob("strength, null = none", ge=0))
    aa: str | None = field(default=None, metadata=_knob("AutoAugment policy, e.g. rand-m9-mstd0.5"))
    reprob: float = field(default=0.0, metadata=_knob("probability of random erasing", ge=0, le=1))
    interpolation: Literal["bilinear", "bicubic", "nearest"] = field(
        default="bilinear", metadata=_knob("bilinear, bicubic or nearest")
    )
    crop_pct: float = field(
        default=1.0, metadata=_knob("centre part of the image used for validation and test", gt=0, le=1)
    )
    mean: tuple[float, ...] | None = field(
        default=None, metadata=_knob("one number a channel; null = the data set's or model's own")
    )
    std: tuple[float, ...] | None = field(default=None, metadata=_knob("one number a channel", gt=0))
    mixup: float = field(default=0.0, metadata=_knob("alpha of mixup, 0 = off", ge=0))
    cutmix: float = field(default=0.0, metadata=_knob("alpha of cutmix, 0 = off", ge=0))

    epochs: int = field(
        metadata=_knob(
            "passes over the training images", group="Optimisation (timm.optim, timm.scheduler)", ge=1
        )
    )
    opt: str = field(default="adamw", metadata=_knob("any name of timm.optim.list_optimizers()"))
    lr: float = field(default=1e-3, metadata=_knob("learning rate after warm-up", gt=0))
    weight_decay: float = field(default=0.05, metadata=_knob("not applied to biases and norms", ge=0))
    momentum: float = field(
        default=0.9, metadata=_knob("for optimizers that have one, such as sgd", ge=0, lt=1)
    )
    sched: str = field(default="cosine", metadata=_knob("cosine, step, multistep, poly, tanh or none"))
    warmup_epochs: int = field(default=0, metadata=_knob("epochs of linear warm-up", ge=0))
    warmup_lr: float = field(default=1e-5, metadata=_knob("learning rate where the warm-up starts", ge=0))
    min_lr: float = field(default=0.0, metadata=_knob("learning rate where the schedule ends", ge=0))
    decay_epochs: int | None = field(
        default=None, metadata=_knob("sched step: epochs between two decays", ge=1)
    )
    decay_milestones: tuple[int, ...] | None = field(
        default=None, metadata=_knob("sched multistep: epochs of the decays", ge=1)
    )
    decay_rate: float = field(
        default=0.1, metadata=_knob("sched step and multistep: factor of a decay", gt=0, lt=1)
    )
    clip_grad: float | None = field(
        default=None, metadata=_knob("largest gradient norm, null = no clipping", gt=0)
    )
    smoothing: float = field(default=0.0, metadata=_knob("label smoothing of the cross-entropy", ge=0, lt=1))
    model_ema: bool = field(default=False, metadata=_knob("evaluate a moving average of the weights"))
    model_ema_decay: float = field(default=0.998, metadata=_knob("decay of that average a step", gt=0, lt=1))

    cpu: bool = field(default=False, metadata=_knob("stay on the CPU even if there is a GPU", group="Device"))
    amp_dtype: Literal["bfloat16", "float16"] | None = field(
        default=None, metadata=_knob("bfloat16 or float16 mixed precision; null = float32")
    )
    channels_last: bool = field(default=False, metadata=_knob("memory layout, often faster for CNNs on GPUs"))
    torchcompile: bool = field(default=False, metadata=_knob("torch.compile the model"))

    collapse_every: int = field(
        default=1,
        metadata=_knob(
            "epochs between two measurements of collapse, 0 = none, as always on multi-label data",
            group="Collapse (on training images without augmentation, not on the training clock)",
            ge=0,
        ),
    )
    collapse_images: int = field(
        default=2000,
        metadata=_knob("on how many of them, every class in proportion; at least twice the classes", ge=2),
    )

    seeds: tuple[int, ...] = field(
        default=(0, 1, 2),
        metadata=_knob("every arm runs with each of these", group="Comparison", ge=0, lt=2**32),
    )
    arms: dict[str, Arm] = field(
        metadata=_knob("the contenders: same model, data and budget, other head or loss")
    )
    baseline: str = field(metadata=_knob("the arm that the others are compared with"))
    primary_metric: Literal["top1", "exact_match", "map"] | None = field(
        default=None,
        metadata=_knob(
            "chooses the best epoch, carries the verdict: top1, exact_match or map; null = by data"
        ),
    )
    target_accuracy: float | None = field(
        default=None,
        metadata=_knob(
            "time to this validation accuracy in %; null = 1 below the baseline's best", gt=0, le=100
        ),
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        check_recipe(self)
