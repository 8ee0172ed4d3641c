"""What multi-label scores count: true and false positives of each label, and how well label sets agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MultiLabelCounts", "checked_hot", "checked_probabilities", "count_decisions", "label_groups"]

_UNIT = 2**32  # Jaccard indices are added as whole numbers of 1/_UNIT: exact, in any order


class MultiLabelCounts(NamedTuple):
    """Sums over samples, all int64.

    Attributes:
        true_positives: (K,).
        false_positives: (K,).
        false_negatives: (K,).
        exact: Samples whose label set is right.
        jaccard: Sum of the Jaccard indices of the samples, in units of 2^-32.
        samples: N.
    """

    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor
    exact: Tensor
    jaccard: Tensor
    samples: Tensor

    @property
    def mean_jaccard(self) -> Tensor:
        """Mean Jaccard index of the samples."""
        return self.jaccard / _UNIT / self.samples


def checked_probabilities(probabilities: Tensor, num_labels: int) -> Tensor:
    """Probabilities (B, K) as detached float32.

    Raises:
        ValueError: If they are of another shape or type, or leave [0, 1].
    """
    fits = isinstance(probabilities, Tensor) and probabilities.ndim == 2 and probabilities.is_floating_point()
    if not fits or probabilities.shape[1] != num_labels:
        shape = tuple(probabilities.shape) if isinstance(probabilities, Tensor) else type(probabilities)
        raise ValueError(f"probabilities: expected floats of shape (B, {num_labels}), got {shape}")
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ValueError(
            f"probabilities: expected numbers in [0, 1], got {float(probabilities.min()):.4g} to "
            f"{float(probabilities.max()):.4g}; apply the sigmoid first, to the centred logits of a "
            "pick-all-label head. torchmetrics would apply it unasked, and only to those batches in which a "
            "number leaves [0, 1], so that samples of different batches could not be ranked"
        )
    return probabilities.detach().float()


def checked_hot(argument: str, values: Tensor, rows: int, num_labels: int) -> Tensor:
    """Multi-hot rows (B, K) of any type as bool.

    Raises:
        ValueError: If the shape is not (rows, num_labels) or a number is neither 0 nor 1.
    """
    if not isinstance(values, Tensor) or values.shape != (rows, num_labels):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{argument}: expected multi-hot rows of shape ({rows}, {num_labels}), got {shape}")
    if values.dtype != torch.bool and not bool(((values == 0) | (values == 1)).all()):
        raise ValueError(
            f"{argument}: expected 0 and 1, got {float(values.min()):.4g} to {float(values.max()):.4g}; "
            "decide on labels first (a threshold, or the decoder of the head)"
        )
    return values.detach().bool()


def count_decisions(predictions: Tensor, target: Tensor) -> MultiLabelCounts:
    """Count how predicted label sets (B, K) agree with the true ones, both bool.

    The Jaccard index of two empty sets is 1.

    >>> counts = count_decisions(torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]]))
    >>> counts.true_positives.tolist(), counts.false_positives.tolist(), counts.mean_jaccard.item()
    ([1, 0, 0], [0, 1, 0], 0.5)
    """
    both, either = predictions & target, predictions | target
    common, union = both.sum(1), either.sum(1)
    jaccard = torch.where(union > 0, common * _UNIT // union.clamp(min=1), _UNIT)
    return MultiLabelCounts(
        true_positives=both.sum(0),
        false_positives=(predictions & ~target).sum(0),
        false_negatives=(target & ~predictions).sum(0),
        exact=(common == union).sum(),
        jaccard=jaccard.sum(),
        samples=torch.tensor(len(target), device=target.device),
    )


def label_groups(
    class_counts: Sequence[int] | Tensor, thresholds: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """Head, medium and tail labels by their number of training images, as sorted positions.

    Args:
        class_counts: (K,) training images of each label.
        thresholds: ``(low, high)``: tail has fewer than low, head more than high, as in long-tailed
            recognition (20, 100). None: thirds of the labels, equal counts by position.

    Raises:
        ValueError: If there are fewer than three labels, or thresholds are not in order.

    >>> {name: labels.tolist() for name, labels in label_groups([5, 90, 30, 7]).items()}
    {'head': [1], 'medium': [2, 3], 'tail': [0]}
    """
    counts = torch.as_tensor(class_counts).detach().cpu()
    if counts.ndim != 1 or len(counts) < 3:
        raise ValueError(
            f"class_counts: expected one number for each of 3 labels or more, got {counts.shape}"
        )
    if thresholds is not None:
        low, high = thresholds
        if not low <= high:
            raise ValueError(f"thresholds: expected (low, high) with low <= high, got {thresholds}")
        masks = counts > high, (counts >= low) & (counts <= high), counts < low
        return {name: mask.nonzero().flatten() for name, mask in zip(_GROUPS, masks, strict=True)}
    order = counts.argsort(descending=True, stable=True)
    third = len(counts) // 3
    parts = order.split([third, len(counts) - 2 * third, third])
    return {name: part.sort().values for name, part in zip(_GROUPS, parts, strict=True)}


_GROUPS = ("head", "medium", "tail")
