"""Training losses of arms with one class an image, by name, with what they take from the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from etfhead.experiment.arm_checks import STATEFUL_LOSSES
from etfhead.experiment.suggest import did_you_mean

if TYPE_CHECKING:
    from etfhead.experiment.data import Splits
    from etfhead.frames import TargetStatistics

__all__ = ["LossFacts", "build_class_loss"]

# Names of arms, and of the module in etfhead.losses that each is.
_MODULES = {
    "label_smoothing": "LabelSmoothingCrossEntropyLoss",
    "label_relaxation": "LabelRelaxationLoss",
    "generalized_cross_entropy": "GeneralizedCrossEntropyLoss",
    "symmetric_cross_entropy": "SymmetricCrossEntropyLoss",
    "reverse_cross_entropy": "ReverseCrossEntropyLoss",
    "mean_absolute_error": "MeanAbsoluteErrorLoss",
    "normalized_cross_entropy": "NormalizedCrossEntropyLoss",
    "normalized_negative": "NormalizedNegativeLoss",
    "active_passive": "ActivePassiveLoss",
    "active_negative": "ActiveNegativeLoss",
    "asymmetric_generalized_cross_entropy": "AsymmetricGeneralizedCrossEntropyLoss",
    "asymmetric_unhinged": "AsymmetricUnhingedLoss",
    "asymmetric_exponential": "AsymmetricExponentialLoss",
    "asymmetric_mean_square": "AsymmetricMeanSquareLoss",
    "joint_asymmetric": "JointAsymmetricLoss",
    "bootstrapping": "BootstrappingLoss",
    "forward_correction": "ForwardCorrectionLoss",
    "backward_correction": "BackwardCorrectionLoss",
    "taylor_cross_entropy": "TaylorCrossEntropyLoss",
    "huberized_cross_entropy": "HuberizedCrossEntropyLoss",
    "poly_cross_entropy": "PolyCrossEntropyLoss",
    "bi_tempered": "BiTemperedLoss",
    "jensen_shannon": "JensenShannonLoss",
    "logit_clip": "LogitClipLoss",
    "etf_dot": "ETFDotLoss",
    "early_learning": "EarlyLearningRegularizationLoss",
    "sparse_overparametrization": "SparseOverparametrizationLoss",
    "logit_adjusted": "LogitAdjustedLoss",
    "balanced_softmax": "LogitAdjustedLoss",
    "ldam": "LDAMLoss",
    "ntce": "NTCELoss",
    "nonl": "NONLLoss",
    "mse": "SquaredErrorLoss",
}
# Arguments that are losses themselves: a name, or {loss: name, option: value}.
_OF_LOSSES = ("active", "passive", "loss")
_NOT_AN_OPTION = ("reduction", "num_samples", "num_classes")
# What the name says (tau is 1), or an option of the arm: weights come from reweight_from, openly.
_SETTLED = {"balanced_softmax": ("tau",), "ldam": ("weight",)}


@dataclass(frozen=True)
class LossFacts:
    """What losses take from the data and not from a recipe.

    Args:
        num_classes: K.
        class_counts: Training images of each class.
        num_samples: Training images.
        transition: P(observed class | true class), (K, K); None where the labels are not known to be noisy.
        target_statistics: Of standardised real-valued targets; None without such.
    """

    num_classes: int
    class_counts: tuple[int, ...]
    num_samples: int
    transition: Tensor | None = None
    target_statistics: TargetStatistics | None = None

    @classmethod
    def of(cls, splits: Splits) -> LossFacts:
        """Those of a training split."""
        statistics = None if splits.targets is None else splits.targets.statistics
        counts = splits.class_counts
        return cls(splits.num_classes, counts, sum(counts), splits.transition, statistics)

    @classmethod
    def stand_in(cls, num_classes: int) -> LossFacts:
        """Of a training split that has not been read: one image a class."""
        import torch

        return cls(num_classes, (1,) * num_classes, num_classes, torch.eye(num_classes))


def build_class_loss(
    name: str, options: Mapping[str, Any], facts: LossFacts, *, label_smoothing: float = 0.0
) -> nn.Module:
    """Build a loss of :mod:`etfhead.losses` for logits (B, K) and classes (B,).

    Args:
        name: As an arm says it.
        options: Keyword arguments of its module; those that the data decide are filled in.
        facts: What the data decide.
        label_smoothing: Of the recipe, for a loss that has this option.

    Raises:
        ValueError: If the loss has no such option, or refuses a value.

    >>> build_class_loss("generalized_cross_entropy", {"q": 0.5}, LossFacts.stand_in(3))
    GeneralizedCrossEntropyLoss(q=0.5, truncation=None, reduction='mean')
    """
    if name not in _MODULES:
        raise ValueError(f"loss: expected a loss of one class an image, got {name!r}")
    import etfhead.losses

    kind: Callable[..., nn.Module] = getattr(etfhead.losses, _MODULES[name])
    known = inspect.signature(kind).parameters
    filled = {key: value for key, value in vars(facts).items() if key in known}
    if "transition" in filled and filled["transition"] is None and "transition" not in options:
        raise ValueError(
            f"loss: {name} needs a transition matrix, and the noise of these labels is not known; write "
            "loss_options: {transition: [[...], ...]}"
        )
    if "label_smoothing" in known and label_smoothing:
        filled["label_smoothing"] = label_smoothing
    allowed = [key for key in known if key not in (*_NOT_AN_OPTION, *_SETTLED.get(name, ()))]
    for key in options:
        if key not in allowed:
            raise ValueError(
                f"loss_options: {name} has no option {key!r}{did_you_mean(str(key), allowed)}; it has "
                f"{', '.join(allowed) or 'none'}"
            )
    given = {key: _value(key, value, facts) for key, value in options.items()}
    if name == "logit_clip" and "loss" not in given:
        given["loss"] = nn.CrossEntropyLoss()
    try:
        return kind(**{**filled, **given})
    except TypeError as error:
        raise ValueError(f"loss_options: {name}: {error}") from error


def _value(key: str, value: Any, facts: LossFacts) -> Any:
    if key == "transition":
        import torch

        try:
            return torch.tensor(value, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"transition: expected rows of numbers, got {value!r} ({error})") from error
    if key not in _OF_LOSSES:
        return value
    rest = dict(value) if isinstance(value, Mapping) else {"loss": value}
    name = rest.pop("loss", None)
    if name in STATEFUL_LOSSES:
        raise ValueError(f"{key}: {name} remembers each image and cannot be a part of another loss")
    if name == "cross_entropy":
        return nn.CrossEntropyLoss(**rest)
    return build_class_loss(str(name), rest, facts)
