"""What a fixed regression head is made of: its targets' statistics and, in closed form, its weight."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from etfhead.frames.regression import RegressionFrame
from etfhead.frames.target_moments import TargetStatistics, check_independent, target_statistics, varies
from etfhead.heads.frame_head import checked_flag

__all__ = ["checked_energy", "checked_statistics", "regression_weight"]


def checked_energy(feature_energy: float | str, in_features: int) -> float:
    """E as a number, d for ``"auto"``, or a ValueError."""
    if feature_energy == "auto":
        return float(in_features)
    number = isinstance(feature_energy, int | float) and not isinstance(feature_energy, bool)
    if not number or not 0 < float(feature_energy) < math.inf:
        raise ValueError(f"feature_energy={feature_energy!r}: expected a positive number or 'auto'")
    return float(feature_energy)


def checked_statistics(targets: Tensor | TargetStatistics | None, num_targets: int) -> TargetStatistics:
    """Mean and covariance of n targets, or a ValueError that says what is wrong with them."""
    if targets is None:
        raise ValueError(
            "targets: a fixed regression head is made from the training targets; pass them, (M, n), or "
            "target_statistics of them"
        )
    statistics = target_statistics(targets)
    if (found := len(statistics.mean)) != num_targets:
        raise ValueError(f"targets: expected {num_targets} columns, as num_targets, got {found}")
    return statistics


def regression_weight(
    statistics: TargetStatistics,
    in_features: int,
    *,
    feature_energy: float | Literal["auto"] = "auto",
    whiten: bool = False,
    weight_decay: float | None = None,
    feature_decay: float | None = None,
    allow_singular: bool = False,
    basis: Literal["identity", "hadamard", "haar"] = "haar",
    seed: int = 0,
) -> tuple[RegressionFrame, Tensor]:
    r"""W = kappa S R: the frame S R of the targets' covariance, as long as the features' energy wants it.

    .. math:: \kappa^2 = \frac{\mathrm{tr}\, \Sigma^{1 - 2p}}{E}, \qquad S = \Sigma^p, \quad p = \tfrac14

    Features that fit all targets then have the mean square norm E. With ``whiten``, p = 1/2; with decays, S
    is the root of :func:`~etfhead.frames.ufm.ufm_gram` and kappa = 1.

    Args:
        statistics: Mean and covariance Sigma of the n targets.
        in_features: d, at least n.
        feature_energy: E, or ``"auto"`` for d; no other with decays.
        whiten: Not with decays.
        weight_decay: lambda_W; needs ``feature_decay``.
        feature_decay: lambda_H.
        allow_singular: Accept targets that depend on each other.
        basis: ``"haar"``, ``"hadamard"`` or ``"identity"`` for R.
        seed: Seed of R.

    Returns:
        tuple[RegressionFrame, Tensor]: The frame, and W (n, d), float64.

    Raises:
        ValueError: If targets are dependent, the best weight is zero, or options contradict.

    >>> moments = target_statistics(torch.tensor([[-2.0], [2.0]]))
    >>> _, weight = regression_weight(moments, 1, feature_energy=1.0, basis="identity")
    >>> round(weight.item(), 12)  # targets of variance 4 from features of variance 1
    2.0
    """
    explicit = weight_decay is not None or feature_decay is not None
    if checked_flag("whiten", whiten) and explicit:
        raise ValueError("whiten=True with decays: the explicit form has no whitening; take one of them")
    if explicit and feature_energy != "auto":
        raise ValueError(
            f"feature_energy={feature_energy} with decays: these fix the scale; leave it at 'auto'"
        )
    energy = checked_energy(feature_energy, in_features)
    if not checked_flag("allow_singular", allow_singular):
        check_independent(statistics.covariance)
    frame = RegressionFrame(
        len(statistics.mean),
        in_features,
        covariance=statistics.covariance,
        exponent=0.5 if whiten else 0.25,
        weight_decay=weight_decay,
        feature_decay=feature_decay,
        basis=basis,
        seed=seed,
    )
    eigenvalues = torch.linalg.eigvalsh(frame.covariance).clamp(min=0.0)
    if not explicit:
        kept = eigenvalues[varies(eigenvalues, pseudo=allow_singular)]
        return frame, math.sqrt((kept ** (1 - 2 * frame.exponent)).sum().item() / energy) * frame.matrix()
    if not frame.root().any():
        raise ValueError(
            f"weight_decay={weight_decay}, feature_decay={feature_decay}: their product is not below the "
            f"largest variance of the targets, {eigenvalues[-1].item():.3g}, and the best weight is then "
            "zero; lower them"
        )
    return frame, frame.matrix()
