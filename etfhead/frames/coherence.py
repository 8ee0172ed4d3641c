"""How close the closest two class vectors are: measured, and the bound that no vectors can beat."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Coherence", "measured_coherence", "welch_bound"]

_GRAM_ROWS = 1024  # rows of the Gram matrix held at once: 8 MB per 1,000 classes


class Coherence(NamedTuple):
    """How close the closest two class vectors are.

    Attributes:
        max_cosine: Largest signed cosine between two different class vectors; what a classifier feels.
        max_abs_cosine: Largest absolute cosine, the coherence of coding theory.
        welch: Welch's lower bound on ``max_abs_cosine``, sqrt((K - d) / (d (K - 1))), 0 for K <= d.
    """

    max_cosine: float
    max_abs_cosine: float
    welch: float


def welch_bound(num_classes: int, in_features: int) -> float:
    """Least possible coherence of K unit vectors in R^d, sqrt((K - d) / (d (K - 1))), 0 for K <= d.

    Welch, "Lower bounds on the maximum cross correlation of signals", IEEE Trans. Inf. Theory 20, 1974.

    >>> welch_bound(4, 3)  # the tetrahedron attains it
    0.3333333333333333
    """
    K, d = num_classes, in_features
    return math.sqrt(max(0.0, (K - d) / (d * (K - 1))))


def measured_coherence(matrix: Tensor) -> Coherence:
    """Of class vectors as rows (K, d), from their Gram matrix; zeros for a single one.

    >>> measured_coherence(torch.eye(3)).max_cosine
    0.0
    """
    if len(matrix) < 2:
        return Coherence(0.0, 0.0, 0.0)
    unit = torch.nn.functional.normalize(matrix, dim=1)
    signed, absolute = -math.inf, 0.0
    for start in range(0, len(unit), _GRAM_ROWS):
        gram = unit[start : start + _GRAM_ROWS] @ unit.T
        rows = torch.arange(len(gram), device=gram.device)
        gram[rows, rows + start] = -math.inf
        signed = max(signed, gram.max().item())
        gram[rows, rows + start] = 0.0
        absolute = max(absolute, gram.abs().max().item())
    return Coherence(signed, absolute, welch_bound(*unit.shape))
