"""Weights of classes by how many samples they have."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from etfhead.frames.imbalanced import checked_counts

__all__ = ["effective_number_weights"]


def effective_number_weights(class_counts: Sequence[int] | Tensor, *, beta: float = 0.999) -> Tensor:
    r"""Class-balanced weights: one over the effective number of samples of a class.

    .. math:: w_k \propto \frac{1 - \beta}{1 - \beta^{n_k}}, \qquad \sum_k w_k = K

    Cui et al., "Class-balanced loss based on effective number of samples" (CVPR 2019, arXiv 1901.05555). For
    ``weight=`` of torch's cross-entropy and of the losses here. Re-weighting, openly: a sample of a rare
    class counts w_k times. torch's ``reduction="mean"`` divides by the weights in the batch.

    Args:
        class_counts: Training samples of each class, (K,) positive integers.
        beta: In [0, 1]. 0 weighs all classes alike, 1 is the limit w_k proportional to 1 / n_k.

    Returns:
        Tensor: (K,) float32 on the CPU.

    Raises:
        ValueError: If a count is not a positive integer, or beta is out of range.

    >>> effective_number_weights([300, 100], beta=1.0).tolist()
    [0.5, 1.5]
    >>> effective_number_weights([300, 100], beta=0.0).tolist()
    [1.0, 1.0]
    """
    if isinstance(beta, bool) or not (isinstance(beta, int | float) and 0.0 <= beta <= 1.0):
        raise ValueError(f"beta={beta!r}: expected a number in [0, 1], such as 0.999")
    counts = checked_counts(class_counts)
    if beta == 1.0:
        inverse = 1.0 / counts
    elif beta == 0.0:
        inverse = torch.ones_like(counts)
    else:
        inverse = -1.0 / torch.expm1(counts * math.log(beta))  # exact also where beta^n is close to 1
    return (inverse * (len(counts) / inverse.sum())).float()
