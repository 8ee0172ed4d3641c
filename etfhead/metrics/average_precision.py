"""Average precision of each label, without the labels for which there is none."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision

__all__ = ["average_precision"]


def average_precision(probabilities: Tensor, target: Tensor) -> Tensor:
    """Non-interpolated average precision of each label, (K,); NaN for a label without a positive.

    torchmetrics gives such a label 0, which would lower the mean.

    Args:
        probabilities: (N, K), in [0, 1].
        target: (N, K) bool.
    """
    present = target.any(0)
    values = torch.full((target.shape[1],), torch.nan, device=target.device)
    if bool(present.any()):
        columns = probabilities[:, present], target[:, present].int()
        labels = int(present.sum())
        values[present] = multilabel_average_precision(
            *columns, num_labels=labels, average=None, validate_args=False
        ).to(values.dtype)
    return values
