"""Scores and collapse of multi-label samples that are all there at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from etfhead.metrics.label_scores import MultiLabelScores
from etfhead.metrics.label_set_collapse import MultiLabelCollapse

__all__ = ["multilabel_collapse", "multilabel_scores"]


def multilabel_scores(
    probabilities: Tensor,
    predictions: Tensor,
    target: Tensor,
    *,
    class_counts: Sequence[int] | None = None,
    thresholds: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    r"""The scores of :class:`MultiLabelScores` for samples that are all there at once.

    Args:
        probabilities: (N, K), in [0, 1]; only their order within a label counts, for mAP.
        predictions: (N, K), 0 or 1: the labels decided on, by a threshold or a decoder.
        target: (N, K), 0 or 1.
        class_counts: Training images of each label (K,), for head, medium and tail.
        thresholds: Of :func:`~etfhead.metrics.multilabel_counts.label_groups`.

    Raises:
        ValueError: If a shape does not fit, a probability leaves [0, 1], or a row is not multi-hot.

    >>> import torch
    >>> target = torch.tensor([[1, 0], [1, 1], [0, 1]])
    >>> scores = multilabel_scores(torch.tensor([[0.9, 0.2], [0.8, 0.6], [0.3, 0.1]]), target, target)
    >>> round(scores["map"].item(), 4), scores["exact_match"].item()
    (0.9167, 1.0)
    """
    metric = MultiLabelScores(_width(target), class_counts=class_counts, thresholds=thresholds)
    device = probabilities.device if isinstance(probabilities, Tensor) else target.device
    metric.to(device).update(probabilities, predictions, target)
    return metric.compute()


def multilabel_collapse(
    features: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    weight: Tensor | None = None,
    min_samples: int = 1,
) -> dict[str, Tensor]:
    r"""The figures of :class:`MultiLabelCollapse` for samples that are all there at once.

    Args:
        features: What the class vectors multiply, (N, d).
        target: Multi-hot rows, (N, K).
        num_classes: K, at least 2.
        weight: Class vectors (K, d).
        min_samples: Label sets of fewer samples are left out of the tag-wise averages.

    Raises:
        ValueError: If a shape or type does not fit, a feature is not finite, or fewer than two classes have a
            sample with that label alone.

    >>> import torch
    >>> target = torch.cat([torch.eye(4), torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]])]).repeat(2, 1)
    >>> vectors = torch.eye(4) - 1 / 4
    >>> scale = torch.where(target.sum(1) == 1, 1.0, 0.9)
    >>> figures = multilabel_collapse(7 + scale[:, None] * (target @ vectors), target, 4, weight=vectors)
    >>> all(figures[name] < 1e-5 for name in ("nc1", "nc2_etf", "nc3", "tag_error_m2", "tag_angle_m2"))
    True
    >>> round(figures["tag_scale_m2"].item(), 4)
    0.9
    """
    metric = MultiLabelCollapse(num_classes, weight, min_samples=min_samples)
    metric.update(features, target)
    return metric.compute()


def _width(target: Tensor) -> int:
    if not isinstance(target, Tensor) or target.ndim != 2:
        shape = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"target: expected multi-hot rows (N, K), got {shape}")
    return target.shape[1]
