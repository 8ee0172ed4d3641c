r"""Where features of several labels collapse to: closed forms of the pick-all-label loss on a simplex.

With every label set of m of the K labels equally frequent (m by m), the minimiser of

.. math:: \frac1N \sum_i L(W h_i, S_i) + \lambda_W |W|^2 + \lambda_H |H|^2

has class vectors W on a simplex, W W^T = rho (I - 11^T/K), and one feature a label set, a scaled sum of the
features of its single labels: h_S = C_m sum_{k in S} h_k (Li, Li, Wang & Qu, "Neural Collapse in Multi-label
Learning with Pick-all-label Loss", ICML 2024, arXiv 2310.15903). Centred logits are then delta_m (1 - m/K)
on the labels of S and -delta_m m/K elsewhere. The constants here follow from the gradient being zero; one
number, kappa = K rho / (2 N lambda_H), holds all that they need to know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from etfhead.frames.base import checked_size

__all__ = [
    "collapse_threshold",
    "filled_gaps",
    "fixed_frame_kappa",
    "tagwise_constants",
    "tagwise_gaps",
    "tagwise_kappa",
]

_STEPS = 200  # Newton needs about ten, bisection 60; both stop at float64's last digit
_LOG_LARGEST = 709.0  # of float64
_LOG_TINY = -60.0  # a kappa below e^-60 is no solution but rounding of the threshold


def tagwise_gaps(
    num_classes: int, kappa: float, multiplicities: Iterable[int], *, normalize: bool = False
) -> Tensor:
    r"""Gap between the logits of labels in and out of the set, for each number m of labels in it.

    .. math:: \delta_m \,(m e^{\delta_m} + K - m) = \kappa \quad\text{(pick-all-label)},\qquad
            m\,\delta_m\,(m e^{\delta_m} + K - m) = \kappa \quad\text{(divided by m)}

    The left sides grow with the gap, so there is one root.

    Args:
        num_classes: K, at least 2.
        kappa: Strength of the fit against the regularisation, at least 0: from :func:`tagwise_kappa` for
            learned class vectors, :func:`fixed_frame_kappa` for fixed ones.
        multiplicities: Numbers of labels m, each from 1 to K - 1.
        normalize: Whether the loss of a sample is divided by its number of labels.

    Returns:
        Tensor: delta_m in the order of ``multiplicities``, float64; all 0 for kappa = 0.

    Raises:
        ValueError: If an argument is out of range.

    >>> [round(gap, 4) for gap in tagwise_gaps(10, 1000.0, [1, 2, 3]).tolist()]
    [5.2093, 4.6417, 4.3161]
    """
    K, m = _checked_multiplicities(num_classes, multiplicities)
    kappa = _checked_number("kappa", kappa)
    if kappa == 0:
        return torch.zeros_like(m)
    return _roots(K, m, torch.full_like(m, math.log(kappa)), normalize)


def tagwise_constants(
    num_classes: int, kappa: float, multiplicities: Iterable[int], *, normalize: bool = False
) -> Tensor:
    """C_m = delta_m / delta_1: how far the features of m labels reach along the sum of their single ones.

    They tend to 1 as the regularisation vanishes, like 1 - log(m) / delta_1 (2 log(m) for the loss divided by
    m). The norm of a feature of m labels relative to one of a single label is C_m sqrt(m (K - m) / (K - 1)).

    Args:
        num_classes: K, at least 2.
        kappa: As for :func:`tagwise_gaps`; 0 gives the limits, 1 and 1/m.
        multiplicities: Numbers of labels m, each from 1 to K - 1.
        normalize: Whether the loss of a sample is divided by its number of labels.

    Returns:
        Tensor: C_m in the order of ``multiplicities``, float64.

    >>> [round(c, 3) for c in tagwise_constants(10, 1000.0, [1, 2, 3, 5]).tolist()]
    [1.0, 0.891, 0.829, 0.751]
    """
    K, m = _checked_multiplicities(num_classes, multiplicities)
    if kappa == 0:
        return 1.0 / m if normalize else torch.ones_like(m)
    counts = [1, *m.long().tolist()]
    gaps = tagwise_gaps(K, kappa, counts, normalize=normalize)
    return gaps[1:] / gaps[0]


def filled_gaps(num_classes: int, known: Mapping[int, float], *, normalize: bool = False) -> Tensor:
    """Gaps of all numbers of labels from those of some, measured or assumed.

    Each known gap has a kappa at which it solves the equation of :func:`tagwise_gaps`. Other numbers of
    labels take theirs from the neighbours, log kappa linear between and constant beyond: a single known gap,
    or several that agree with the theory, give the theory's curve.

    Args:
        num_classes: K, at least 2.
        known: Gap, positive, for some numbers of labels.
        normalize: Whether the loss of a sample is divided by its number of labels.

    Returns:
        Tensor: delta_m for m = 1..K-1, float64, the known ones unchanged.

    Raises:
        ValueError: If no gap is given, or one is not positive.

    >>> curve = tagwise_gaps(6, 300.0, range(1, 6))
    >>> torch.allclose(filled_gaps(6, {2: curve[1].item(), 4: curve[3].item()}), curve)
    True
    """
    sizes = sorted(known)
    K, m = _checked_multiplicities(num_classes, sizes)
    if not sizes:
        raise ValueError("known: expected the gap of at least one number of labels")
    gaps = m.new_tensor([_checked_number(f"known[{size}]", known[size], positive=True) for size in sizes])
    log_kappas = gaps.log() + _log_normaliser(K, m, gaps) + (m.log() if normalize else 0.0)
    every = torch.arange(1, K, dtype=torch.float64, device="cpu")
    right = torch.searchsorted(m, every).clamp(max=len(m) - 1)
    left = (right - 1).clamp(min=0)
    share = ((every - m[left]) / (m[right] - m[left]).clamp(min=1.0)).clamp(0.0, 1.0)
    filled = _roots(K, every, torch.lerp(log_kappas[left], log_kappas[right], share), normalize)
    filled[m.long() - 1] = gaps
    return filled


def _roots(K: int, m: Tensor, log_kappas: Tensor, normalize: bool) -> Tensor:
    """Solutions delta of delta (m e^delta + K - m) = kappa, or kappa / m; any positive kappa in range."""
    target = log_kappas - m.log() if normalize else log_kappas
    # In u = log delta the equation is convex and increasing: from the right Newton's steps never overshoot.
    u = torch.minimum(target - math.log(K), (target - m.log()).clamp(min=1.0).log())
    for _ in range(_STEPS):
        delta = u.exp()
        log_sum = _log_normaliser(K, m, delta)
        step = (u + log_sum - target) / (1.0 + delta * (m.log() + delta - log_sum).exp())
        u = u - step
        if not (step.abs() > 1e-16 * u.abs().clamp(min=1.0)).any():
            break
    return u.exp()


def _log_normaliser(K: int, m: Tensor, gaps: Tensor) -> Tensor:
    """log(m e^delta + K - m)."""
    return torch.logaddexp(m.log() + gaps, (K - m).log())


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

    >>> counts = {1: 4, 2: 2, 3: 1}
    >>> kappa = tagwise_kappa(5, counts, weight_decay=5e-3, feature_decay=1e-4)
    >>> [round(gap, 5) for gap in tagwise_gaps(5, kappa, counts).tolist()]
    [5.43474, 4.85926, 4.52865]
    """
    K, m, samples = _checked_counts(num_classes, multiplicity_counts, per_label_set)
    lw = _checked_number("weight_decay", weight_decay, positive=True)
    lh = _checked_number("feature_decay", feature_decay, positive=True)
    total = samples.sum().item()
    share = samples / total
    used = (m > 0) & (m < K) & (share > 0)
    m, share = m[used], share[used]
    target = math.log(4.0 * total * (K - 1) / K) + math.log(lw) + math.log(lh)

    def excess(log_kappa: float) -> float:
        log_q = _roots(K, m, torch.full_like(m, log_kappa), normalize).log() - log_kappa
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

    >>> round(tagwise_gaps(10, fixed_frame_kappa(10, 128, feature_decay=1e-3), [1]).item(), 2)
    2.29
    """
    K = checked_size("num_classes", num_classes, 2)
    N = _checked_number("num_samples", num_samples, positive=True)
    lh = _checked_number("feature_decay", feature_decay, positive=True)
    s = _checked_number("scale", scale, positive=True)
    return s * s * K * K / (2.0 * N * lh * (K - 1))


def _checked_multiplicities(num_classes: int, multiplicities: Iterable[int]) -> tuple[int, Tensor]:
    K = checked_size("num_classes", num_classes, 2)
    counts = [checked_size("multiplicities", m, 1) for m in multiplicities]
    if counts and max(counts) >= K:
        raise ValueError(
            f"multiplicities: expected numbers of labels from 1 to num_classes - 1 = {K - 1}, got "
            f"{max(counts)}; a full label set has no direction"
        )
    return K, torch.tensor(counts, dtype=torch.float64, device="cpu")


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
        count = _checked_number(f"multiplicity_counts[{size}]", count)
        m.append(size)
        samples.append(count * math.comb(K, size) if per_label_set and count else count)
    if not sum(samples) > 0:
        raise ValueError(f"multiplicity_counts={dict(multiplicity_counts)!r}: expected at least one sample")
    sizes, totals = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (m, samples))
    return K, sizes, totals


def _checked_number(argument: str, value: float, *, positive: bool = False) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0.0 or (positive and number == 0.0):
        raise ValueError(f"{argument}={value!r}: expected a finite number {'> 0' if positive else '>= 0'}")
    return number
