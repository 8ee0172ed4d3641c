"""Pick-all-label loss: cross-entropy of several labels at once, summed over them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from etfhead.heads.label_sets import LabelSets, multi_hot

__all__ = ["PickAllLabelLoss", "pick_all_label"]

Reduction = Literal["none", "mean", "sum"]


def pick_all_label(
    logits: Tensor,
    target: LabelSets,
    *,
    normalize: bool = False,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Sum over a sample's labels of the cross-entropy with each of them.

    .. math:: \ell_i = \sum_{k \in S_i} -\log \frac{e^{z_{ik}}}{\sum_j e^{z_{ij}}}
            = |S_i| \log \sum_j e^{z_{ij}} - \sum_{k \in S_i} z_{ik}

    The pick-all-labels reduction of Menon et al., "Multilabel reductions: what is my loss optimising?"
    (NeurIPS 2019), and the loss under which several labels collapse to scaled sums of the single ones (Li et
    al., ICML 2024, arXiv 2310.15903). In the limit of much data softmax(z)_k is P(label k) / E[number of
    labels]; with ``normalize`` it is E[(label k) / (number of labels)], and every sample weighs the same.

    An empty label set has loss and gradient exactly 0 and still counts in the mean. A full one only pulls the
    softmax to uniform. Logits of -inf switch classes off that are no label of the sample (without smoothing).

    Args:
        logits: (B, K).
        target: Label sets: multi-hot (B, K) of zeros and ones in any type (bool is read unchecked; on a GPU
            the kernel checks, and stops the process' use of it); a list of B lists or 1-D tensors of
            classes; or these padded with -1 to an integer tensor (B, M), M other than K, which are read back
            from a GPU. The order of labels and repetitions do not matter.
        normalize: Divide each sample's loss by its number of labels |S_i|.
        label_smoothing: a in [0, 1]: the target of each label k is (1 - a) e_k + a/K, as in torch.
        weight: Class weights (K,), at least 0: the whole term of label k, smoothed or not, counts weight_k
            times. (With smoothing *and* weights torch instead weighs each log-probability.)
        reduction: ``"none"`` (B,); ``"mean"`` over the B samples, whatever their labels and weights; or
            ``"sum"``.

    Returns:
        Tensor: The loss, in float32 or wider.

    Raises:
        ValueError: If shapes, types or options do not fit, a class is out of range, or a multi-hot target
            holds anything but zeros and ones.

    >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
    >>> pick_all_label(logits, torch.tensor([[1, 1, 0]])).item()
    1.8152...
    >>> pick_all_label(logits, [[0, 1]]).item()
    1.8152...
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits: expected floats of shape (B, K), got {logits.dtype} {tuple(logits.shape)}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'none', 'mean' or 'sum'")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing={label_smoothing!r}: expected a number in [0, 1]")
    hot = _label_sets(target, logits)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_p = nn.functional.log_softmax(logits, dim=1, dtype=dtype)
    terms = log_p.masked_fill(~hot, 0.0)
    if label_smoothing:
        uniform = log_p.mean(1, keepdim=True)
        terms = (1.0 - label_smoothing) * terms + label_smoothing * uniform.where(hot, 0.0)
    if weight is not None:
        terms = terms * _checked_weight(weight, logits).to(dtype)
    loss = -terms.sum(1)
    if normalize:
        loss = loss / hot.sum(1).clamp(min=1)
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _label_sets(target: LabelSets, logits: Tensor) -> Tensor:
    """Label sets (B, K) of bools where the logits are; a GPU is waited for only to read classes from it."""
    dense = isinstance(target, Tensor) and target.shape == logits.shape and target.dtype != torch.bool
    if isinstance(target, Tensor) and dense and target.is_cuda:
        hot = target == 1
        # A kernel checks: to ask here would let the GPU run out of work once its forward pass is done.
        fits = (hot | (target == 0)).all()
        torch._assert_async(fits, "target: expected zeros and ones in a multi-hot tensor")
        return hot.to(logits.device)
    hot = multi_hot(target, logits.shape[1], batch_size=len(logits))
    return hot.to(logits.device, non_blocking=True)


def _checked_weight(weight: Tensor, logits: Tensor) -> Tensor:
    if weight.shape != logits.shape[1:] or not weight.is_floating_point():
        raise ValueError(
            f"weight: expected {logits.shape[1]} floats, one per class, got {weight.dtype} "
            f"{tuple(weight.shape)}"
        )
    return weight.to(logits.device, non_blocking=True)


class PickAllLabelLoss(nn.Module):
    """Module form of :func:`pick_all_label`.

    Args:
        normalize: Divide each sample's loss by its number of labels.
        label_smoothing: a in [0, 1]; each label's target is (1 - a) e_k + a/K.
        weight: Class weights (K,); kept as a buffer that state dicts leave out.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B, K) of zeros and ones, B lists of classes, or classes padded with -1 (B, M).

    >>> PickAllLabelLoss(normalize=True)(torch.zeros(2, 4), [[0], [1, 2, 3]]).item()
    1.386...
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        normalize: bool = False,
        label_smoothing: float = 0.0,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight, persistent=False)
        self.reduction = reduction

    def forward(self, logits: Tensor, target: LabelSets) -> Tensor:
        """The loss of a batch."""
        return pick_all_label(
            logits,
            target,
            normalize=self.normalize,
            label_smoothing=self.label_smoothing,
            weight=self.weight,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        options = ("normalize", "label_smoothing", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)
