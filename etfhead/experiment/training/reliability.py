"""The reliability diagram of a split: how often predictions of each confidence are right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["RELIABILITY_BINS", "ReliabilityBins"]

RELIABILITY_BINS = 15


class ReliabilityBins:
    r"""Sums of one pass over a split, of which the reliability diagram is made.

    .. math:: B_b = \{i : \tfrac{b}{15} \le \max_k p_{ik} < \tfrac{b+1}{15}\}, \quad b = 0, \dots, 14

    with confidence 1 in the last bin; for each, images, mean confidence and accuracy (Guo et al. 2017, arXiv
    1706.04599). The expected calibration error of these bins is that of torchmetrics, except that the latter
    counts confidence 1 as a sixteenth bin.

    Args:
        device: Of the sums.
        dtype: Of the sums.

    >>> bins = ReliabilityBins(torch.device("cpu"), torch.float64)
    >>> bins.update(torch.tensor([[0.9, 0.1], [0.08, 0.92], [0.45, 0.55]]), torch.tensor([0, 0, 1]))
    >>> found = bins.diagram(bins.sums)
    >>> found["count"][-2:], found["accuracy"][-2:]
    ([2, 0], [50.0, None])
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.sums = torch.zeros(3, RELIABILITY_BINS, dtype=dtype, device=device)  # images, confidence, right
        self._edges = torch.linspace(0, 1, RELIABILITY_BINS + 1, device=device)[1:-1]

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Count a batch of probabilities (B, K) and classes (B,)."""
        confidence, predicted = probabilities.max(1)
        at = torch.bucketize(confidence, self._edges.to(confidence.dtype), right=True)
        wide = confidence.to(self.sums.dtype)
        for row, values in enumerate((torch.ones_like(wide), wide, (predicted == target).to(wide.dtype))):
            self.sums[row].index_add_(0, at, values)

    @staticmethod
    def diagram(sums: Tensor) -> dict[str, Any]:
        """``count``, ``confidence`` and ``accuracy`` (percent) of each bin, of the sums of all processes.

        A bin without an image has neither (None).
        """
        count, confidence, right = sums.cpu().double()
        shares = {"confidence": confidence, "accuracy": right}
        return {
            "count": [int(n) for n in count.tolist()],
            **{
                name: [
                    100.0 * s / n if n else None for s, n in zip(row.tolist(), count.tolist(), strict=True)
                ]
                for name, row in shares.items()
            },
        }
