"""Closed-form last layers of imbalanced data, from the unconstrained-features model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from etfhead.frames.last_layer import LastLayer
from etfhead.frames.orthogonal_factors import helmert_matrix

__all__ = [
    "check_decays",
    "checked_counts",
    "imbalanced_ce_geometry",
    "of_sum_zero_part",
    "orthogonal_geometry",
    "seli_geometry",
    "squared_error_geometry",
]


def orthogonal_geometry(
    class_counts: Sequence[int] | Tensor, *, weight_decay: float, feature_decay: float, bias: bool = False
) -> LastLayer:
    r"""Optimum of the squared error on imbalanced classes: orthogonal, of unequal norms; some may vanish.

    .. math:: \min_{W, H} \frac{1}{2N} \lVert W H - Y \rVert_F^2 + \frac{\lambda_W}{2} \lVert W \rVert_F^2
              + \frac{\lambda_H}{2} \lVert H \rVert_F^2

    over class vectors W (K, d) and the features H (d, N) of all N samples, Y one-hot (K, N), d >= K. With
    :math:`s_k^2 = [\sqrt{n_k \lambda_H / \lambda_W} - N \lambda_H]_+`,

    .. math:: W W^T = \mathrm{diag}(s_k^2), \quad
              \bar H^T \bar H = \mathrm{diag}\Bigl(\frac{s_k^2}{(s_k^2 + N\lambda_H)^2}\Bigr), \quad
              W \bar H = \mathrm{diag}\Bigl(\frac{s_k^2}{s_k^2 + N\lambda_H}\Bigr):

    the general orthogonal frame of Dang et al. 2023 (arXiv 2301.00437). Classes with
    :math:`n_k \le N^2 \lambda_W \lambda_H` collapse to zero. A bias without decay adds :math:`b 1^T` to W H:
    then b = p, the shares :math:`n_k / N`, and with :math:`G = W W^T`

    .. math:: G = \sqrt{\lambda_H / \lambda_W}\, \bigl[ (N (\mathrm{diag}\,p - p p^T))^{1/2}
              - N \sqrt{\lambda_W \lambda_H}\, I \bigr]_+, \quad
              W \bar H = G (G + N \lambda_H I)^{-1} (I - p 1^T),

    :math:`[\cdot]_+` the spectral positive part: a simplex ETF for equal counts, neither orthogonal nor
    equiangular else. All features then sum to zero; the class means, unless the counts are equal, do not.

    Args:
        class_counts: n_k, (K,) positive integers.
        weight_decay: lambda_W of the loss above. ``mse_loss`` is a mean over K N numbers, without the 1/2:
            multiply both decays that stand beside it by K / 2.
        feature_decay: lambda_H of the loss above, for squares of features summed over all N samples: divide
            one for their mean by N.
        bias: Whether the layer has a bias, without decay.

    Returns:
        LastLayer: At the scale of the optimum, not centred.

    Raises:
        ValueError: If the counts are not at least two positive integers or a decay is not positive.

    >>> geometry = orthogonal_geometry([90, 9, 1], weight_decay=1e-2, feature_decay=1e-2)
    >>> geometry.product.diagonal().round(decimals=4).tolist()  # the third class collapsed
    [0.8946, 0.6667, 0.0]
    """
    counts = checked_counts(class_counts)
    check_decays(weight_decay, feature_decay)
    total = counts.sum().item()
    gain, threshold = math.sqrt(feature_decay / weight_decay), total * math.sqrt(weight_decay * feature_decay)

    def strength(eigenvalues: Tensor) -> Tensor:
        return gain * (eigenvalues.sqrt() - threshold).clamp(min=0.0)

    return squared_error_geometry(counts, strength, feature_decay, bias=bias)


def squared_error_geometry(
    counts: Tensor, strength: Callable[[Tensor], Tensor], feature_decay: float, *, bias: bool
) -> LastLayer:
    """Optimum under squared error from what becomes of each eigenvalue of the target's second moment.

    Args:
        counts: (K,), float64.
        strength: From those eigenvalues to those of the product of all weights, W W^T.
        feature_decay: lambda_H; features answer by ridge regression.
        bias: Whether an unregularised bias takes the mean of the targets.
    """
    total = counts.sum().item()
    ridge = total * feature_decay
    if not bias:
        s = strength(counts)
        return LastLayer(s.diag(), (s / (s + ridge).square()).diag(), (s / (s + ridge)).diag(), centred=False)
    shares = counts / total
    weight_gram, feature_gram, answer = of_sum_zero_part(
        counts.diag() - total * torch.outer(shares, shares),
        strength,
        lambda x: strength(x) / (strength(x) + ridge).square(),
        lambda x: strength(x) / (strength(x) + ridge),
    )
    residual = torch.eye(len(counts), dtype=torch.float64, device="cpu") - shares[:, None]
    return LastLayer(weight_gram, residual.T @ feature_gram @ residual, answer @ residual, centred=False)


def imbalanced_ce_geometry(
    class_counts: Sequence[int] | Tensor, *, weight_decay: float, feature_decay: float
) -> LastLayer:
    r"""Optimum of cross-entropy on imbalanced classes with non-negative features and no bias.

    .. math:: \min_{W,\, H \ge 0} \frac1N \sum_i \mathrm{CE}(W h_i, y_i)
              + \frac{\lambda_W}{2} \lVert W \rVert_F^2 + \frac{\lambda_H}{2} \lVert H \rVert_F^2

    over class vectors W (K, d) and the features H (d, N) of all N samples, d >= K. With

    .. math:: M_k = \Bigl[ \log \Bigl( (K-1) \Bigl[ \frac{\sqrt{n_k}}
              {N \sqrt{\frac{K-1}{K} \lambda_W \lambda_H}} - 1 \Bigr] \Bigr) \Bigr]_+

    class means are orthogonal, :math:`\lVert \bar h_k \rVert^2 = \sqrt{\frac{K-1}{K}
    \frac{\lambda_W}{\lambda_H n_k}} M_k`, and

    .. math:: W = \sqrt{\frac{\lambda_H}{\lambda_W K (K-1)}} (K I - 1 1^T) D^{1/2} \bar H^T, \quad
              W \bar H = (I - \tfrac1K 1 1^T)\, \mathrm{diag}(M_k), \quad D = \mathrm{diag}(n_k).

    Classes with :math:`n_k \le N^2 \lambda_W \lambda_H K / (K - 1)` have zero means. Dang et al. 2024 (arXiv
    2401.02058), here with the factor that makes it the optimum of the loss above.

    Args:
        class_counts: n_k, (K,) positive integers.
        weight_decay: lambda_W of the loss above.
        feature_decay: lambda_H of the loss above, for squares of features summed over all N samples: divide
            one for their mean by N.

    Returns:
        LastLayer: At the scale of the optimum, not centred: ReLU features have a mean.

    Raises:
        ValueError: If the counts are not at least two positive integers or a decay is not positive.

    >>> geometry = imbalanced_ce_geometry([40, 10], weight_decay=1e-3, feature_decay=1e-3)
    >>> geometry.product.round(decimals=4).tolist()
    [[2.5906, -2.2412], [-2.5906, 2.2412]]
    """
    counts = checked_counts(class_counts)
    check_decays(weight_decay, feature_decay)
    classes, total = len(counts), counts.sum().item()
    share = (classes - 1) / classes
    ratio = counts.sqrt() / (total * math.sqrt(share * weight_decay * feature_decay))
    margins = ((classes - 1) * (ratio - 1)).clamp(min=1.0).log()
    squares = (share * weight_decay / (feature_decay * counts)).sqrt() * margins
    centring = torch.full((classes, classes), -1.0 / classes, dtype=torch.float64, device="cpu")
    centring.diagonal().add_(1.0)
    gain = feature_decay * classes / (weight_decay * (classes - 1))
    weight_gram = gain * (centring * (counts * squares)) @ centring
    return LastLayer(weight_gram, squares.diag(), centring * margins, centred=False)


def seli_geometry(class_counts: Sequence[int] | Tensor) -> LastLayer:
    r"""Simplex-encoded-labels interpolation: where cross-entropy goes as its decay goes to zero.

    .. math:: W W^T = (C D C)^{1/2}, \quad \bar H^T \bar H = ((C D C)^{1/2})^+, \quad W \bar H = C,
              \qquad C = I - \tfrac1K 1 1^T,\ D = \mathrm{diag}(n_k)

    That is, with the simplex-encoded labels :math:`C Y = V \Lambda U^T`, the geometry
    :math:`W W^T = V \Lambda V^T`, :math:`H^T H = U \Lambda U^T` of the support vector machine

    .. math:: \min_{W, H} \tfrac12 \lVert W \rVert_F^2 + \tfrac12 \lVert H \rVert_F^2 \quad \text{s.t.} \quad
              (w_{y_i} - w_c)^T h_i \ge 1 \quad (c \ne y_i)

    over signed features, d >= K - 1 (Thrampoulidis et al. 2022, arXiv 2208.05512), for a layer without bias.
    Cross-entropy nears it like one over the logarithm of its decay: a reference that training never reaches.

    Args:
        class_counts: n_k, (K,) positive integers; only their ratios matter up to scale.

    Returns:
        LastLayer: Centred, for these class means sum to zero.

    Raises:
        ValueError: If the counts are not at least two positive integers.

    >>> geometry = seli_geometry([4, 1])
    >>> (geometry.weight_gram @ geometry.mean_gram).round(decimals=12).tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    counts = checked_counts(class_counts)
    weight_gram, mean_gram, product = of_sum_zero_part(
        counts.diag(), torch.sqrt, torch.rsqrt, torch.ones_like
    )
    return LastLayer(weight_gram, mean_gram, product, centred=True)


def of_sum_zero_part(matrix: Tensor, *functions: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """f(C A C) for each f, on the vectors that sum to zero; zero on the constant ones, whatever f(0)."""
    basis = helmert_matrix(len(matrix))
    eigenvalues, vectors = torch.linalg.eigh(basis.T @ matrix @ basis)
    vectors = basis @ vectors
    return [(vectors * f(eigenvalues)) @ vectors.T for f in functions]


def checked_counts(class_counts: Sequence[int] | Tensor) -> Tensor:
    """Samples of each class, (K,) float64 on the CPU, or a ValueError."""
    try:
        counts = torch.as_tensor(class_counts, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        counts = torch.zeros(0)
    fits = counts.ndim == 1 and len(counts) >= 2 and not counts.is_complex() and counts.dtype != torch.bool
    if not fits or not bool(
        counts.isfinite().all() and (counts >= 1).all() and (counts == counts.round()).all()
    ):
        raise ValueError(
            f"class_counts={class_counts!r}: expected at least two positive integers, the samples of each "
            "class; leave out classes without samples"
        )
    return counts.to(torch.float64)


def check_decays(weight_decay: float, feature_decay: float) -> None:
    """Refuse a decay that is not a positive number."""
    for argument, value in (("weight_decay", weight_decay), ("feature_decay", feature_decay)):
        if isinstance(value, bool) or not (isinstance(value, int | float) and 0.0 < value < math.inf):
            raise ValueError(
                f"{argument}={value!r}: expected a positive number; without decay there is no optimum"
            )
