"""What an arm on real-valued targets takes from the targets of the training split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from etfhead.experiment.training.target_loss import HalfSquaredError
from etfhead.frames import TargetStatistics
from etfhead.frames.target_moments import check_independent, inverse_root

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Arm

__all__ = ["build_target_loss", "regression_options", "whitens"]


def whitens(arm: Arm) -> bool:
    """Whether the arm's loss is the squared error of whitened targets."""
    return bool((arm.loss_options or {}).get("whiten"))


def build_target_loss(arm: Arm, statistics: TargetStatistics | None) -> HalfSquaredError:
    """Build the training loss of a regression arm.

    Args:
        arm: Its ``loss_options`` may say ``{whiten: true}``.
        statistics: Of the standardised training targets; None before they are known: white ones.

    Raises:
        ValueError: If targets are to be whitened and depend on each other.
    """
    if not whitens(arm) or statistics is None:
        return HalfSquaredError()
    return HalfSquaredError(inverse_root(_independent(arm, statistics), pseudo=bool(arm.allow_singular)))


def regression_options(arm: Arm, statistics: TargetStatistics | None, num_targets: int) -> dict[str, Any]:
    """Options of the fixed regression head that the recipe does not say; empty for other heads.

    Args:
        arm: Head and loss.
        statistics: Of the standardised training targets; None where a checkpoint will bring them.
        num_targets: n.
    """
    if arm.head != "regression":
        return {}
    if statistics is None:
        zero, one = torch.zeros(num_targets, device="cpu"), torch.eye(num_targets, device="cpu")
        statistics = TargetStatistics(zero.double(), one.double())
    return {"targets": statistics, "whiten": whitens(arm)}


def _independent(arm: Arm, statistics: TargetStatistics) -> torch.Tensor:
    if not arm.allow_singular:
        check_independent(statistics.covariance)
    return statistics.covariance
