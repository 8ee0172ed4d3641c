"""Mean and covariance of regression targets, and whether every target is one of its own."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from etfhead.frames.ufm import checked_covariance, spectral_map

__all__ = [
    "TargetStatistics",
    "check_independent",
    "check_scales",
    "inverse_root",
    "target_statistics",
    "varies",
]

_CONSTANT = 1e-12  # standard deviation of a constant target, relative to its largest number
_DEPENDENT = 1e-10  # smallest eigenvalue of the correlations of targets that depend on each other
_NO_VARIANCE = 1e-10  # eigenvalues of a singular covariance that count as zero, relative to the largest
_CLEARLY = 1e-6  # smallest eigenvalue of the correlations of targets that clearly do not
_WHITE = 1e-3  # how far variances of whitened targets may be from 1
_NAMED = 1e-3  # smallest share, in standard deviations, of a target that an error message names
_TERMS = 6  # most targets that it names


class TargetStatistics(NamedTuple):
    """What a regression head knows of its targets; take it from the training split alone.

    Attributes:
        mean: (n,) float64.
        covariance: (n, n) float64, of all samples: divided by their number M, not by M - 1.
    """

    mean: Tensor
    covariance: Tensor


def target_statistics(targets: Any) -> TargetStatistics:
    """Mean and covariance of targets.

    Args:
        targets: (M, n), or (M,) for one target; numbers of any real type on any device, of the training
            split. Statistics are returned as they are, checked.

    Returns:
        TargetStatistics: float64, on the CPU.

    Raises:
        ValueError: If there are fewer than two samples, a number is not finite, or a target is constant.

    >>> target_statistics(torch.tensor([[1.0, 0.0], [3.0, 4.0]])).covariance.tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    if isinstance(targets, TargetStatistics):
        return _checked(targets)
    try:
        values = torch.as_tensor(targets, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"targets: expected numbers of shape (M, n), got {type(targets).__name__}"
        ) from error
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or len(values) < 2 or values.shape[1] < 1 or values.is_complex():
        raise ValueError(
            f"targets: expected real numbers of shape (M, n), at least two samples, got {tuple(values.shape)}"
        )
    values = values.to(torch.float64)
    if bad := int((~values.isfinite()).any(1).sum()):
        raise ValueError(
            f"targets: {bad} of {len(values)} samples hold NaN or infinity; leave them out, or fill them in"
        )
    mean = values.mean(0)
    centred = values - mean
    centred = centred - centred.mean(0)  # the rounding of a mean that is large beside the spread
    spread = centred.square().mean(0).sqrt()
    _refuse_constant(spread <= _CONSTANT * values.abs().amax(0), "the same number in every sample")
    if not spread.square().sum().isfinite():
        raise ValueError(
            f"targets: numbers up to {values.abs().max().item():.3g} have no variance in float64; give them "
            "in another unit"
        )
    return TargetStatistics(mean, centred.T @ centred / len(values))


def check_independent(covariance: Tensor) -> None:
    """Refuse targets of which one is a combination of the others.

    The correlations are judged, so units and scales of the targets do not matter.

    Args:
        covariance: (n, n) float64.

    Raises:
        ValueError: If it is singular, naming the targets.

    >>> check_independent(torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64))
    Traceback (most recent call last):
    ValueError: targets: their covariance is singular: 0.707 t0 - 0.707 t1 is constant (in standard ...
    """
    spread = covariance.diagonal().sqrt()
    _refuse_constant(spread <= 0, "without variance")
    eigenvalues, vectors = torch.linalg.eigh(covariance / torch.outer(spread, spread))
    if eigenvalues[0] > _DEPENDENT:
        return
    shares = dict(enumerate(vectors[:, 0].tolist()))
    named = sorted(
        k for k in sorted(shares, key=lambda k: -abs(shares[k]))[:_TERMS] if abs(shares[k]) > _NAMED
    )
    sign = math.copysign(1.0, shares[named[0]])
    text = "".join(f" {'-' if sign * shares[k] < 0 else '+'} {abs(shares[k]):.3g} t{k}" for k in named)
    rest = " + ..." if sum(abs(share) > _NAMED for share in shares.values()) > _TERMS else ""
    raise ValueError(
        f"targets: their covariance is singular: {text.removeprefix(' + ')}{rest} is constant (in standard "
        "deviations of targets t0, t1, ...). Leave one of them out, take more samples than targets, or pass "
        "allow_singular=True, which predicts the mean in such directions"
    )


def inverse_root(covariance: Tensor, *, pseudo: bool = False) -> Tensor:
    """Sigma^{-1/2}, (n, n): what makes targets white.

    Args:
        covariance: (n, n) float64.
        pseudo: Whether it may be singular: the result is then zero in directions without variance.

    >>> inverse_root(torch.diag(torch.tensor([4.0, 0.0])), pseudo=True).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """

    def inverse(eigenvalues: Tensor) -> Tensor:
        kept = varies(eigenvalues, pseudo=pseudo)
        return torch.where(kept, eigenvalues, 1.0).rsqrt() * kept

    return spectral_map(covariance, inverse)


def varies(eigenvalues: Tensor, *, pseudo: bool) -> Tensor:
    """Which eigenvalues of a covariance count: with ``pseudo`` not those that may be rounding."""
    return eigenvalues > (_NO_VARIANCE * eigenvalues.max() if pseudo else 0.0)


def check_scales(covariance: Tensor, whitening: Tensor) -> None:
    """Refuse targets of which rounding hides some, because others are so much larger.

    Args:
        covariance: (n, n) float64; singular ones are judged in the directions that vary.
        whitening: What :func:`inverse_root` made of it.

    Raises:
        ValueError: If the whitened targets are not white.

    >>> unlike = torch.diag(torch.tensor([1e12, 1.0], dtype=torch.float64))
    >>> check_scales(unlike, inverse_root(unlike))
    >>> check_scales(unlike, inverse_root(unlike, pseudo=True))
    Traceback (most recent call last):
    ValueError: targets: standard deviations from 1 to 1e+06 are too unlike to tell the small ones from ...
    """
    spread = covariance.diagonal().sqrt()
    rank = int((torch.linalg.eigvalsh(covariance / torch.outer(spread, spread)) > _CLEARLY).sum())
    white = torch.linalg.eigvalsh(whitening @ covariance @ whitening)
    if bool((white[-rank:] - 1).abs().max() > _WHITE):
        raise ValueError(
            f"targets: standard deviations from {spread.min().item():.3g} to {spread.max().item():.3g} are "
            "too unlike to tell the small ones from rounding; standardise the targets, or give them in other "
            "units"
        )


def _checked(statistics: TargetStatistics) -> TargetStatistics:
    covariance = checked_covariance("targets.covariance", statistics.covariance)
    mean = statistics.mean
    if not isinstance(mean, Tensor) or tuple(mean.shape) != (len(covariance),) or mean.is_complex():
        raise ValueError(f"targets.mean: expected shape ({len(covariance)},), the covariance's size")
    if not mean.isfinite().all():
        raise ValueError("targets.mean: holds NaN or infinity")
    _refuse_constant(covariance.diagonal() <= 0, "without variance")
    return TargetStatistics(mean.detach().to("cpu").to(torch.float64), covariance)


def _refuse_constant(constant: Tensor, how: str) -> None:
    if bool(constant.any()):
        which = constant.nonzero().flatten().tolist()
        raise ValueError(f"targets: {which} of {len(constant)} are constant, {how}; leave them out")
