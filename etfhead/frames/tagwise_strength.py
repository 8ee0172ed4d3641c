"""How strongly the fit pulls against the regularisation under the pick-all-label loss, and when it gives up.

One number, kappa, fixes every gap of :mod:`etfhead.frames.tagwise`. It follows from the counts of label sets
and the two regularisation strengths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from etfhead.frames.base import checked_size
from etfhead.frames.tagwise import checked_number, solved_gaps

__all__ = ["collapse_threshold", "fixed_frame_kappa", "tagwise_kappa"]

_STEPS = 200  # bisection needs about 60 and stops at float64's last digit
_LOG_LARGEST = 709.0  # of float64
_LOG_TINY = -60.0  # a kappa below e^-60 is no solution but rounding of the threshold


def tagwise_kappa(
    num_classes: int,
    multiplicity_counts: Mapping[int, float],
    *,
    weight_decay: float,
    feature_decay: float,
    normalize: bool = False,
    per_label_set: bool = True,
) -> float:
    r"""Kappa of learned class vectors, from the counts and the two regularisation strengths.

    At a minimum the two penalties are equal, which fixes the size of the class vectors:

    .. math:: \sum_m N_m\, m (K - m)\, q_m^2 = 4 N^2 \lambda_W \lambda_H \frac{K-1}{K}, \qquad
            q_m = \frac{\delta_m}{\kappa}

    Args:
        num_classes: K, at least 2.
        multiplicity_counts: For each number of labels m, from 0 to K, how many samples every single label set
            of that size has: n_m. Empty and full sets count as samples and pull nothing.
        weight_decay: lambda_W, the factor of the squared norm of W; that is half of an optimizer's
            ``weight_decay``.
        feature_decay: lambda_H, the factor of the squared norm of all N features, summed.
        normalize: Whether the loss of a sample is divided by its number of labels.
        per_label_set: False if ``multiplicity_counts`` are numbers of samples of that multiplicity in all,
            N_m = n_m binom(K, m).

    Returns:
        float: kappa, or 0.0 where regularisation wins and everything collapses to zero
        (:func:`collapse_threshold`).

    Raises:
        ValueError: If an argument is out of range.

    >>> from etfhead.frames.tagwise import tagwise_gaps
    >>> counts = {1: 4, 2: 2, 3: 1}
    >>> kappa = tagwise_kappa(5, counts, weight_decay=5e-3, feature_decay=1e-4)
    >>> [round(gap, 5) for gap in tagwise_gaps(5, kappa, counts).tolist()]
    [5.43474, 4.85926, 4.52865]
    """
    K, m, samples = _checked_counts(num_classes, multiplicity_counts, per_label_set)
    lw = checked_number("weight_decay", weight_decay, positive=True)
    lh = checked_number("feature_decay", feature_decay, positive=True)
    total = samples.sum().item()
    share = samples / total
    used = (m > 0) & (m < K) & (share > 0)
    m, share = m[used], share[used]
    target = math.log(4.0 * total * (K - 1) / K) + math.log(lw) + math.log(lh)

    def excess(log_kappa: float) -> float:
        log_q = solved_gaps(K, m, torch.full_like(m, log_kappa), normalize).log() - log_kappa
        return ((share * m * (K - m)).log() + 2.0 * log_q).logsumexp(0).item() - target

    if not len(m) or excess(_LOG_TINY) <= 0:
        return 0.0
    low, high = _LOG_TINY, 1.0
    while excess(high) > 0:
        low, high = high, min(2.0 * high, _LOG_LARGEST)
        if low == _LOG_LARGEST:
            raise ValueError(
                f"weight_decay={lw}, feature_decay={lh}: too small, kappa exceeds the range of float64"
            )
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return math.exp(0.5 * (low + high))


def collapse_threshold(
    num_classes: int,
    multiplicity_counts: Mapping[int, float],
    *,
    normalize: bool = False,
    per_label_set: bool = True,
) -> float:
    r"""The product of the two regularisation strengths from which on everything collapses to zero.

    .. math:: (\lambda_W \lambda_H)^* = \frac{K}{4 N^2 (K-1)} \sum_m N_m\, m (K - m)\, \bar q_m^2, \qquad
            \bar q_m = \tfrac1K \text{ or } \tfrac1{mK}

    Args:
        num_classes: K, at least 2.
        multiplicity_counts: As for :func:`tagwise_kappa`.
        normalize: Whether the loss of a sample is divided by its number of labels.
        per_label_set: As for :func:`tagwise_kappa`.

    Returns:
        float: The critical lambda_W lambda_H; below it the minimiser is not zero.

    >>> critical = collapse_threshold(5, {1: 4, 2: 2})
    >>> tagwise_kappa(5, {1: 4, 2: 2}, weight_decay=1.01 * critical, feature_decay=1.0)
    0.0
    >>> tagwise_kappa(5, {1: 4, 2: 2}, weight_decay=0.99 * critical, feature_decay=1.0) > 0
    True
    """
    K, m, samples = _checked_counts(num_classes, multiplicity_counts, per_label_set)
    total = samples.sum().item()
    q = 1.0 / (m.clamp(min=1.0) * K) if normalize else torch.full_like(m, 1.0 / K)
    pull = (samples / total * m * (K - m) * q.square()).sum().item()
    return pull * K / (4.0 * total * (K - 1))


def fixed_frame_kappa(
    num_classes: int, num_samples: float, *, feature_decay: float, scale: float = 1.0
) -> float:
    r"""Kappa of a fixed simplex with unit class vectors and logits ``scale`` W h.

    .. math:: \kappa = \frac{s^2 K^2}{2 N \lambda_H (K - 1)}

    Args:
        num_classes: K, at least 2.
        num_samples: N of the mean over samples; with a penalty on each batch's features, the batch size.
        feature_decay: lambda_H, the factor of the squared norm of those N features, summed.
        scale: s.

    Returns:
        float: kappa.

    >>> from etfhead.frames.tagwise import tagwise_gaps
    >>> round(tagwise_gaps(10, fixed_frame_kappa(10, 128, feature_decay=1e-3), [1]).item(), 2)
    2.29
    """
    K = checked_size("num_classes", num_classes, 2)
    N = checked_number("num_samples", num_samples, positive=True)
    lh = checked_number("feature_decay", feature_decay, positive=True)
    s = checked_number("scale", scale, positive=True)
    return s * s * K * K / (2.0 * N * lh * (K - 1))


def _checked_counts(
    num_classes: int, multiplicity_counts: Mapping[int, float], per_label_set: bool
) -> tuple[int, Tensor, Tensor]:
    """K, multiplicities m and samples N_m."""
    K = checked_size("num_classes", num_classes, 2)
    m, samples = [], []
    for multiplicity, count in multiplicity_counts.items():
        size = checked_size("multiplicity_counts", multiplicity, 0)
        if size > K:
            raise ValueError(f"multiplicity_counts: {size} labels out of num_classes={K}")
        count = checked_number(f"multiplicity_counts[{size}]", count)
        m.append(size)
        samples.append(count * math.comb(K, size) if per_label_set and count else count)
    if not sum(samples) > 0:
        raise ValueError(f"multiplicity_counts={dict(multiplicity_counts)!r}: expected at least one sample")
    sizes, totals = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (m, samples))
    return K, sizes, totals
