"""Training losses of multi-label arms, averaged over samples, so that a learning rate means the same."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Arm

__all__ = ["LabelSetLoss", "build_label_loss"]

_SINCE = "1.0.31"  # the timm that brought these
_OF_TIMM = {"zlpr": "ZlprLoss", "two_way": "TwoWayLoss"}


class LabelSetLoss(nn.Module):
    """A loss of logits (B, K) and multi-hot rows (B, K), called as every loss of a comparison is.

    Args:
        loss: Gives one number.
        per_batch: Whether that is the sum over the batch, to be divided by B.
        hard: Whether the loss takes bool rows, which it need not check.
    """

    def __init__(self, loss: nn.Module, *, per_batch: bool = False, hard: bool = False) -> None:
        super().__init__()
        self.loss, self.per_batch, self.hard = loss, per_batch, hard

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch."""
        value: Tensor = self.loss(logits, target.bool() if self.hard else target)
        return value / len(logits) if self.per_batch else value


class _BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy summed over labels and samples; smoothing moves targets towards 1/2."""

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        target = target * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        return nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")


def build_label_loss(arm: Arm, label_smoothing: float) -> LabelSetLoss:
    """Build the loss of a multi-label arm.

    ``asymmetric``, ``zlpr`` and ``two_way`` are timm's with its defaults. The two-way loss also contrasts the
    samples of each label in the batch; with several processes, in each one's share.

    Args:
        arm: Loss and its options.
        label_smoothing: Of ``pick_all_label`` and ``binary_cross_entropy``.

    Raises:
        ValueError: If the installed timm has no such loss.
    """
    if arm.loss == "pick_all_label":
        from etfhead.losses import PickAllLabelLoss

        normalize = bool(arm.pal_normalize)
        return LabelSetLoss(PickAllLabelLoss(normalize=normalize, label_smoothing=label_smoothing), hard=True)
    if arm.loss == "binary_cross_entropy":
        return LabelSetLoss(_BinaryCrossEntropy(label_smoothing), per_batch=True)
    import timm.loss

    if arm.loss == "asymmetric":
        kind: Any = timm.loss.AsymmetricLossMultiLabel
        # Older timm sums over the batch and knows nothing else.
        known = "reduction" in inspect.signature(kind).parameters
        return LabelSetLoss(kind(reduction="sum") if known else kind(), per_batch=True)
    kind = getattr(timm.loss, _OF_TIMM[arm.loss], None)
    if kind is None:
        raise ValueError(
            f"loss: {arm.loss} is of timm {_SINCE} or later, and {timm.__version__} is installed; "
            f"pip install 'timm>={_SINCE}', or leave the arm out"
        )
    return LabelSetLoss(kind())
