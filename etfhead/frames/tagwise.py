r"""Where features of several labels collapse to: closed forms of the pick-all-label loss on a simplex.

With every label set of m of the K labels equally frequent (m by m), the minimiser of

.. math:: \frac1N \sum_i L(W h_i, S_i) + \lambda_W |W|^2 + \lambda_H |H|^2

has class vectors W on a simplex, W W^T = rho (I - 11^T/K), and one feature a label set, a scaled sum of the
features of its single labels: h_S = C_m sum_{k in S} h_k (Li, Li, Wang & Qu, "Neural Collapse in Multi-label
Learning with Pick-all-label Loss", ICML 2024, arXiv 2310.15903). Centred logits are then delta_m (1 - m/K)
on the labels of S and -delta_m m/K elsewhere. The constants here follow from the gradient being zero; one
number, kappa = K rho / (2 N lambda_H), holds all that they need to know
(:mod:`etfhead.frames.tagwise_strength` finds it).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from etfhead.frames.base import checked_size

__all__ = ["checked_number", "filled_gaps", "solved_gaps", "tagwise_constants", "tagwise_gaps"]

_STEPS = 200  # Newton needs about ten and stops at float64's last digit


def tagwise_gaps(
    num_classes: int, kappa: float, multiplicities: Iterable[int], *, normalize: bool = False
) -> Tensor:
    r"""Gap between the logits of labels in and out of the set, for each number m of labels in it.

    .. math:: \delta_m \,(m e^{\delta_m} + K - m) = \kappa \quad\text{(pick-all-label)},\qquad
            m\,\delta_m\,(m e^{\delta_m} + K - m) = \kappa \quad\text{(divided by m)}

    The left sides grow with the gap, so there is one root.

    Args:
        num_classes: K, at least 2.
        kappa: Strength of the fit against the regularisation, at least 0: from
            :func:`~etfhead.frames.tagwise_strength.tagwise_kappa` for learned class vectors,
            :func:`~etfhead.frames.tagwise_strength.fixed_frame_kappa` for fixed ones.
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
    kappa = checked_number("kappa", kappa)
    if kappa == 0:
        return torch.zeros_like(m)
    return solved_gaps(K, m, torch.full_like(m, math.log(kappa)), normalize)


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
    gaps = m.new_tensor([checked_number(f"known[{size}]", known[size], positive=True) for size in sizes])
    log_kappas = gaps.log() + _log_normaliser(K, m, gaps) + (m.log() if normalize else 0.0)
    every = torch.arange(1, K, dtype=torch.float64, device="cpu")
    right = torch.searchsorted(m, every).clamp(max=len(m) - 1)
    left = (right - 1).clamp(min=0)
    share = ((every - m[left]) / (m[right] - m[left]).clamp(min=1.0)).clamp(0.0, 1.0)
    filled = solved_gaps(K, every, torch.lerp(log_kappas[left], log_kappas[right], share), normalize)
    filled[m.long() - 1] = gaps
    return filled


def solved_gaps(K: int, m: Tensor, log_kappas: Tensor, normalize: bool) -> Tensor:
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


def _checked_multiplicities(num_classes: int, multiplicities: Iterable[int]) -> tuple[int, Tensor]:
    K = checked_size("num_classes", num_classes, 2)
    counts = [checked_size("multiplicities", m, 1) for m in multiplicities]
    if counts and max(counts) >= K:
        raise ValueError(
            f"multiplicities: expected numbers of labels from 1 to num_classes - 1 = {K - 1}, got "
            f"{max(counts)}; a full label set has no direction"
        )
    return K, torch.tensor(counts, dtype=torch.float64, device="cpu")


def checked_number(argument: str, value: float, *, positive: bool = False) -> float:
    """The number as a float, at least 0 (above 0 with ``positive``) and finite, or ``ValueError``."""
    number = float(value)
    if not math.isfinite(number) or number < 0.0 or (positive and number == 0.0):
        raise ValueError(f"{argument}={value!r}: expected a finite number {'> 0' if positive else '>= 0'}")
    return number
