"""The Gram matrix of class vectors, or of targets' vectors, that the squared error with decay ends at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import checked_size
from etfhead.frames.imbalanced import check_decays

__all__ = ["checked_covariance", "spectral_map", "ufm_gram"]

_ROUNDING = 1e-5  # of a covariance that was summed in float32, relative to its largest entry


def ufm_gram(
    covariance: Tensor, *, weight_decay: float, feature_decay: float, in_features: int | None = None
) -> Tensor:
    r"""W W^T at the optimum of the squared error over free features, for any targets.

    .. math:: \min_{W, H, b} \frac{1}{2M} \lVert W H + b 1^T - Y \rVert_F^2
              + \frac{\lambda_H}{2M} \lVert H \rVert_F^2 + \frac{\lambda_W}{2} \lVert W \rVert_F^2

    over W (n, d), features H (d, M) of M samples and targets Y (n, M). The best H of a given W is a ridge
    regression; what remains is convex in W W^T and has its minimum at

    .. math:: W W^T = \sqrt{\lambda_H / \lambda_W}\,
              \bigl[ \Sigma^{1/2} - \sqrt{\lambda_W \lambda_H}\, I \bigr]_+

    with the spectral positive part and :math:`\Sigma = \tfrac1M (Y - \bar Y)(Y - \bar Y)^T`: neural
    regression collapse (Andriopoulos et al., NeurIPS 2024, arXiv 2409.04180, Theorem 4.1). Without a bias
    Sigma is :math:`\tfrac1M Y Y^T`. With one-hot targets this is classification by the squared error: Sigma
    is :math:`\mathrm{diag}(p) - p p^T` with a bias and class shares p, diag(p) without.

    Args:
        covariance: Sigma, (n, n), symmetric and without negative eigenvalues.
        weight_decay: lambda_W of the loss above. Beside ``mse_loss``, a mean over M n numbers without the
            1/2, multiply both decays by n / 2.
        feature_decay: lambda_H of the loss above, for the mean over samples of squared norms. One for their
            sum, as in :func:`~etfhead.frames.imbalanced.orthogonal_geometry`, is multiplied by M first.
        in_features: d; with d < n only the d largest eigenvalues stay. None for d >= n.

    Returns:
        Tensor: (n, n), float64, CPU.

    Raises:
        ValueError: If the matrix is not a covariance or a decay is not positive.

    >>> ufm_gram(torch.diag(torch.tensor([4.0, 0.01])), weight_decay=0.04, feature_decay=1.0).tolist()
    [[9.0, 0.0], [0.0, 0.0]]
    """
    covariance = checked_covariance("covariance", covariance)
    check_decays(weight_decay, feature_decay)
    width = len(covariance) if in_features is None else checked_size("in_features", in_features, 1)
    gain, threshold = math.sqrt(feature_decay / weight_decay), math.sqrt(weight_decay * feature_decay)

    def strength(eigenvalues: Tensor) -> Tensor:
        kept = gain * (eigenvalues.sqrt() - threshold).clamp(min=0.0)
        kept[: max(len(kept) - width, 0)] = 0.0
        return kept

    return spectral_map(covariance, strength)


def spectral_map(matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """f(A) of a symmetric matrix A without negative eigenvalues; f gets them in ascending order.

    >>> spectral_map(torch.tensor([[4.0]]), torch.sqrt)
    tensor([[2.]])
    """
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return (vectors * function(eigenvalues.clamp(min=0.0))) @ vectors.T


def checked_covariance(argument: str, covariance: Any, size: int | None = None) -> Tensor:
    """A covariance as (n, n) float64 on the CPU, exactly symmetric, or a ValueError that says why not."""
    if not isinstance(covariance, Tensor) or covariance.ndim != 2 or len(covariance) == 0:
        raise ValueError(f"{argument}: expected a matrix of shape (n, n), got {_shape(covariance)}")
    expected = (len(covariance),) * 2 if size is None else (size, size)
    if tuple(covariance.shape) != expected or covariance.is_complex():
        raise ValueError(f"{argument}: expected real numbers of shape {expected}, got {_shape(covariance)}")
    matrix = covariance.detach().to("cpu").to(torch.float64)
    if not matrix.isfinite().all():
        raise ValueError(f"{argument}: holds NaN or infinity; look for broken targets")
    rounding = _ROUNDING * matrix.abs().max()
    if bool((matrix - matrix.T).abs().max() > rounding):
        raise ValueError(f"{argument}: expected a symmetric matrix, such as torch.cov(targets.T)")
    matrix = (matrix + matrix.T) / 2
    if (least := torch.linalg.eigvalsh(matrix)[0].item()) < -rounding:
        raise ValueError(f"{argument}: has the eigenvalue {least:.3g}; a covariance has none below zero")
    return matrix


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
