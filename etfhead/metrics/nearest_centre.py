"""How often a classifier and the nearest class centre name different classes: NC4."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest_centre", "nearest_centre_disagreement"]

_SAMPLES = 2048  # whose distances are held at once


def nearest_centre(features: Tensor, centres: Tensor, seen: Tensor | None = None) -> Tensor:
    r"""The class whose centre is closest, argmin_c |h - mu_c|; the first one in a tie.

    Args:
        features: (B, d).
        centres: (K, d).
        seen: (K,) bool; classes without a centre are never named. None for all.

    Returns:
        Tensor: (B,) int64.
    """
    # Distances between points far from the origin would be differences of large numbers.
    middle = centres.mean(0) if seen is None else centres[seen].mean(0)
    centred = (centres - middle).to(features.dtype)
    offset = -0.5 * centred.square().sum(1)
    if seen is not None:
        offset = offset.masked_fill(~seen, -torch.inf)
    return torch.addmm(offset, features - middle.to(features.dtype), centred.T).argmax(1)


def nearest_centre_disagreement(features: Tensor, centres: Tensor, predicted: Tensor, seen: Tensor) -> Tensor:
    """Number of samples whose predicted class is not that of the nearest centre.

    Args:
        features: (N, d), any floating type and device; compared in the centres'.
        centres: (K, d).
        predicted: The classifier's classes, (N,).
        seen: (K,) bool, the classes that have a centre.
    """
    wrong = torch.zeros((), dtype=torch.int64, device=centres.device)
    for start in range(0, len(features), _SAMPLES):
        part = slice(start, start + _SAMPLES)
        named = nearest_centre(features[part].to(centres), centres, seen)
        wrong += (named != predicted[part].to(centres.device)).sum()
    return wrong
