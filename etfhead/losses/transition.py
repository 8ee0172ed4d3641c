"""Transition matrices of label noise: what they are held to, their inverse, and an estimate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["checked_transition", "estimate_transition", "transition_inverse"]

_LARGEST_CONDITION = 1e8  # beyond, an inverse in float32 would be noise


def estimate_transition(probabilities: Tensor, *, quantile: float = 1.0) -> Tensor:
    r"""Transition matrix read off a network that was trained on the noisy labels.

    .. math:: \hat T_{ij} = p_j(x^{(i)}), \qquad x^{(i)} = \arg\max_x p_i(x)

    Patrini et al. (CVPR 2017): the sample surest of class i is taken to belong to it. It needs one such
    sample a class, and a network that has not memorised the labels yet.

    Args:
        probabilities: Softmax outputs (N, K) on training images.
        quantile: In (0, 1]: take the sample at this quantile of p_i in place of the largest; the paper's
            code takes 0.97 for CIFAR-100, against outliers.

    Returns:
        Tensor: T, (K, K), float64, rows sum to 1.

    Raises:
        ValueError: If the shape does not fit or a row is no distribution.

    >>> estimate_transition(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))
    tensor([[0.9000, 0.1000],
            [0.2000, 0.8000]], dtype=torch.float64)
    """
    if probabilities.ndim != 2 or not probabilities.is_floating_point() or not len(probabilities):
        raise ValueError(
            f"probabilities: expected floats (N, K), got {probabilities.dtype} {tuple(probabilities.shape)}"
        )
    if not 0.0 < quantile <= 1.0:
        raise ValueError(f"quantile={quantile!r}: expected a number in (0, 1]")
    p = probabilities.detach().double()
    _check_rows(p, "probabilities")
    rank = math.ceil(quantile * len(p)) - 1
    chosen = p.argsort(dim=0)[rank]
    rows = p[chosen]
    return rows / rows.sum(1, keepdim=True)


def checked_transition(transition: Tensor) -> Tensor:
    """T widened to float32 at least, without gradients.

    Raises:
        ValueError: If it is not square or a row is no distribution.
    """
    shape = tuple(transition.shape)
    if len(shape) != 2 or shape[0] != shape[1] or not transition.is_floating_point():
        raise ValueError(f"transition: expected floats of shape (K, K), got {transition.dtype} {shape}")
    wide = transition.detach().to(torch.promote_types(transition.dtype, torch.float32))
    _check_rows(wide, "transition")
    return wide


def transition_inverse(transition: Tensor) -> Tensor:
    """T^{-1}, in the type and on the device of T.

    Raises:
        ValueError: If T is singular or nearly so.
    """
    # In float64 on the CPU: done once for a module, and some devices have no float64.
    wide = transition.double().cpu()
    condition = float(torch.linalg.cond(wide))
    if not condition < _LARGEST_CONDITION:
        raise ValueError(
            f"transition: its condition number is {condition:.3g}, so it has no useful inverse; two true "
            "classes get the same labels. Use forward_correction, or merge the classes"
        )
    return torch.linalg.inv(wide).to(transition).contiguous()  # labels pick rows


def _check_rows(rows: Tensor, argument: str) -> None:
    sums = rows.sum(1)
    if not bool((rows >= 0).all()) or not bool(((sums - 1.0).abs() <= 1e-4).all()):
        worst = int((sums - 1.0).abs().nan_to_num(nan=torch.inf).argmax())
        raise ValueError(
            f"{argument}: expected rows of numbers >= 0 that sum to 1; row {worst} sums to "
            f"{float(sums[worst]):.6g} and its smallest number is {float(rows[worst].min()):.6g}"
        )
