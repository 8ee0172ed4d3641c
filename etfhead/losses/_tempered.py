"""Normalisation of the heavy-tailed softmax: powers of 1 / (1 + (lambda - z)/n) that sum to one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["power", "snapped", "tail_power", "tempered_factors"]

_SAMPLE = 16  # one class in so many for the first guess, if there are enough
_MOST_STEPS = 50  # 2 or 3 in practice


def tempered_factors(logits: Tensor, n: float) -> Tensor:
    r"""Factors of a softmax with the tail of a power.

    .. math:: f_k = 1 + \frac{\lambda - z_k}{n}, \qquad \sum_k f_k^{-n} = 1

    :math:`(\sum_k f_k^{-n})^{-1/n}` is a concave function of lambda, linear for equal logits. Halley steps on
    it triple the digits. On a CPU they begin at the root for a part of the classes and end when they are
    small enough; a GPU takes as many as the worst case was seen to need, so that the host need not wait.

    Args:
        logits: (B, K), float32 or wider.
        n: 1 / (t - 1), positive.

    Returns:
        Tensor: f, (B, K), at least 1.

    >>> tempered_factors(torch.tensor([[1.0, 0.0]]), 1.0)
    tensor([[1.6180, 2.6180]])
    """
    gaps = logits.amax(1, keepdim=True) - logits
    if gaps.is_cuda:
        return _stepped(gaps, n)
    # The factors for lambda at the largest logit, all at least 1; lambda is above it.
    fixed = gaps.mul_(1.0 / n).add_(1.0)
    raised = torch.zeros_like(fixed[:, :1])
    if fixed.shape[1] >= 8 * _SAMPLE:
        part = fixed[:, ::_SAMPLE].contiguous()
        raised = _solved(part, raised, n, (fixed.shape[1] - 1) / part.shape[1], 0.01)
    # A step leaves about the cube of its size.
    raised = _solved(fixed, raised, n, None, (0.1 * torch.finfo(fixed.dtype).eps) ** (1 / 3))
    return fixed.add_(raised)


def _stepped(gaps: Tensor, n: float) -> Tensor:
    """Factors from how far logits are below the largest, after a fixed number of steps of four passes."""
    raised = torch.zeros_like(gaps[:, :1])
    factors = torch.empty_like(gaps)
    # Seen for up to 1e7 classes at up to four distances, for n from 0.2 on: this leaves 1e-6, or 1e-13.
    steps = min(15, (2 if gaps.dtype == torch.float32 else 3) + math.ceil(7.0 / n))
    for _ in range(steps):
        torch.add(1.0 + raised, gaps, alpha=1.0 / n, out=factors)
        norm = torch.linalg.vector_norm(factors, -n, dim=1, keepdim=True)
        s1, s2 = (torch.linalg.vector_norm(factors, -n - j, dim=1, keepdim=True).pow(-n - j) for j in (1, 2))
        pull = s1 * norm.pow(n)
        newton = (norm.reciprocal() - 1.0) / pull
        bend = newton * (pull - s2 / s1)
        raised = (raised + newton / (1.0 + 0.5 * (n + 1.0) * bend).clamp(min=0.5)).clamp(min=0.0)
    return torch.add(1.0 + raised, gaps, alpha=1.0 / n, out=factors)


def _solved(fixed: Tensor, raised: Tensor, n: float, share: float | None, enough: float) -> Tensor:
    """Lambda from a guess; with a share, for classes that stand for so many each, and the largest logit."""
    r, x = torch.empty_like(fixed), torch.empty_like(fixed)
    for _ in range(_MOST_STEPS):
        torch.add(fixed, raised, out=r).reciprocal_()
        s0 = power(r, n, out=x).sum(1, keepdim=True)
        s1, s2 = (x.mul_(r).sum(1, keepdim=True) for _ in range(2))
        if share is not None:
            best = (1.0 + raised).reciprocal_()
            s0, s1, s2 = (share * s + best ** (n + j) for j, s in enumerate((s0, s1, s2)))
        newton = torch.expm1(s0.log() / n) * s0 / s1
        bend = 0.5 * (n + 1.0) * newton * (s1 / s0 - s2 / s1)
        step = newton / (1.0 + bend).clamp(min=0.5)
        raised = (raised + step).clamp(min=0.0)
        if bool((step.abs() <= enough * (1.0 + raised)).all()):
            break
    return raised


def power(x: Tensor, exponent: float, out: Tensor | None = None) -> Tensor:
    """x^exponent for positive x, in another tensor; on a CPU whole ones by products, ten times as fast."""
    out = torch.empty_like(x) if out is None else out
    if x.is_cuda:
        return torch.pow(x, exponent, out=out)
    whole = round(exponent)
    if not 1 <= whole <= 32 or snapped(exponent) != whole:
        return torch.log(x, out=out).mul_(exponent).exp_()
    if whole == 1:
        return out.copy_(x)
    for place, digit in enumerate(bin(whole)[3:]):
        if place == 0:
            torch.mul(x, x, out=out)
        else:
            out.mul_(out)
        if digit == "1":
            out.mul_(x)
    return out


def snapped(exponent: float) -> float:
    """The whole number that an exponent differs from by rounding, or itself."""
    whole = round(exponent)
    return float(whole) if abs(exponent - whole) <= 1e-14 * whole else exponent


def tail_power(t: float) -> float:
    """1 / (t - 1), whole where t is a whole one's nearest float: 1.2 means 5."""
    n = 1.0 / (t - 1.0)
    return float(round(n)) if round(n) and 1.0 + 1.0 / round(n) == t else n
