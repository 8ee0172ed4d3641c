"""One contender of a comparison: the classifier head and the loss it is trained with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from etfhead.experiment.arm_checks import check_arm
from etfhead.experiment.checks import check_bounds
from etfhead.experiment.knob import knob
from etfhead.experiment.loss_names import LossName

__all__ = ["Arm"]


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

    head: Literal[
        "linear", "cosine", "etf", "multilabel_etf", "class_mean", "delta", "guided", "regression"
    ] = field(
        default="linear",
        metadata=knob(
            "linear, cosine: learnable; etf, multilabel_etf, regression: fixed; others follow features"
        ),
    )
    loss: LossName = field(
        default="cross_entropy",
        metadata=knob(
            "cross_entropy, dot_regression, label_smoothing, ...; multi-label: pick_all_label, ...; mse"
        ),
    )
    loss_options: dict[str, Any] | None = field(
        default=None, metadata=knob("options of that loss, as in {q: 0.7}", group="most losses")
    )
    frame: str | None = field(
        default=None,
        metadata=knob(
            "auto, simplex, orthoplex, union, code, orthogonal, imbalanced_ce, seli, class_means",
            group="etf",
        ),
    )
    frame_options: dict[str, Any] | None = field(
        default=None,
        metadata=knob(
            "decays and bias, as in {weight_decay: 5e-4, feature_decay: 1e-5}",
            group="orthogonal, imbalanced_ce",
        ),
    )
    basis: Literal["identity", "hadamard", "haar"] | None = field(
        default=None,
        metadata=knob("orthonormal basis of the frame: identity, hadamard or haar", group="etf, guided"),
    )
    neck: Literal["batchnorm", "none"] | None = field(
        default=None,
        metadata=knob("batchnorm (without affine parameters) or none before the head", group="any head"),
    )
    normalize: bool | None = field(
        default=None,
        metadata=knob(
            "L2-normalise the features, logits are cosines (cosine, class_mean, delta: always)",
            group="etf, guided",
        ),
    )
    scale: float | Literal["auto"] | None = field(
        default=None,
        metadata=knob("auto or the number that multiplies the logits", group="all but linear", gt=0),
    )
    learn_scale: bool | None = field(default=None, metadata=knob("train that number", group="all but linear"))
    orient: Literal["none", "features", "inputs"] | None = field(
        default=None,
        metadata=knob("start from class means of features or input images; or none", group="any head"),
    )
    exponent: float | None = field(
        default=None,
        metadata=knob("power of the class means' spectrum, with orient", group="any head", ge=0, le=1),
    )
    low_rank: int | None = field(
        default=None,
        metadata=knob("rank of a learnable correction of the frame, 0 = none", group="etf", ge=0),
    )
    fused: bool | None = field(
        default=None,
        metadata=knob("stream logits through the loss, never holding them", group="etf, class_mean, delta"),
    )
    momentum: float | None = field(
        default=None,
        metadata=knob("share of a running mean that stays", group="class_mean, guided", ge=0, lt=1),
    )
    centre: bool | float | None = field(
        default=None,
        metadata=knob(
            "take class vectors from the mean of all; or a share of it", group="class_mean", ge=0, le=1
        ),
    )
    repel: float | None = field(
        default=None,
        metadata=knob("push a sample's closest wrong class vector away, 0 = no", group="class_mean", ge=0),
    )
    rate: float | None = field(
        default=None,
        metadata=knob("how far a wholly wrong sample moves its class vector", group="delta", gt=0),
    )
    every: int | None = field(
        default=None, metadata=knob("steps between two turns of the frame", group="guided", ge=1)
    )
    class_balanced: bool | None = field(
        default=None, metadata=knob("weigh the classes of a batch equally", group="dot_regression")
    )
    reweight_from: float | None = field(
        default=None,
        metadata=knob(
            "weigh rare classes up after this share of the epochs, 0 = from the start",
            group="cross_entropy, logit_adjusted, balanced_softmax, ldam",
            ge=0,
            lt=1,
        ),
    )
    reweight_beta: float | None = field(
        default=None,
        metadata=knob("by (1 - beta) / (1 - beta^images): 0 = not, 1 = by 1 / images", ge=0, le=1),
    )
    tail_decay: dict[str, Any] | None = field(
        default=None,
        metadata=knob(
            "decays of the last linear layers, e.g. {weight_decay: 1e-3, feature_decay: 1e-4}",
            group="linear",
        ),
    )
    posthoc: float | None = field(
        default=None,
        metadata=knob(
            "predict with logits less so many times the log of class shares", group="any head", ge=0
        ),
    )
    pal_normalize: bool | None = field(
        default=None,
        metadata=knob("divide a sample's loss by its number of labels", group="pick_all_label"),
    )
    decode: Literal["threshold", "nearest", "nearest_cosine", "posterior"] | None = field(
        default=None,
        metadata=knob(
            "label sets by tuned threshold; pick_all_label: nearest, nearest_cosine or posterior",
            group="multi-label losses",
        ),
    )

    feature_energy: float | Literal["auto"] | None = field(
        default=None,
        metadata=knob(
            "mean square norm of features that its scale is for; auto = d", group="regression", gt=0
        ),
    )
    allow_singular: bool | None = field(
        default=None, metadata=knob("accept targets that depend on each other", group="regression")
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        check_arm(self)
