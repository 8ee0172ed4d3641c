"""Class vectors in closed form from class means: the turned simplex, and softened principal components."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etfhead.frames.base import checked_size
from etfhead.frames.orthogonal_factors import helmert_matrix

__all__ = ["checked_means", "class_means_code", "orient_simplex", "polar_factor"]

_TILT = 0.1  # how far a repeated class vector is moved: to a cosine of about 0.995 from the first
_SAME = 1e-7  # unit rows closer than this are one vector in float32


def _gaussian(*shape: int) -> Tensor:
    """The same numbers in every process: what is left open by the data is filled from here."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


def checked_means(means: Tensor) -> Tensor:
    """Class means as a detached (K, m) float64 tensor on the CPU, or a ValueError that says what is wrong."""
    if means.ndim != 2 or len(means) < 2 or means.shape[1] < 1:
        raise ValueError(f"means: expected shape (K, m) with K >= 2, got {tuple(means.shape)}")
    means = means.detach().to("cpu").double()
    if bad := (~torch.isfinite(means).all(1)).nonzero().flatten().tolist():
        raise ValueError(
            f"means: {len(bad)} of {len(means)} rows are not finite, the first is class {bad[0]}; "
            "look for broken samples or a trunk that diverged"
        )
    return means


def _rounding(means: Tensor) -> float:
    """Singular values of the centred means up to this are rounding: features are float32 at best."""
    return torch.finfo(torch.float32).eps * torch.linalg.matrix_norm(means).item()


def polar_factor(matrix: Tensor, *, tolerance: float | None = None) -> Tensor:
    r"""The matrix with orthonormal rows (columns, if taller than wide) that is nearest to ``matrix``.

    .. math:: \arg\min_Q \|Q - A\|_F = \arg\max_Q \operatorname{tr}(Q^\top A) = P R^\top,
              \qquad A = P S R^\top

    (Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31, 1966.)
    Directions that A does not decide are completed by a fixed Gaussian matrix, projected on the two
    undecided subspaces: that depends on the subspaces alone, not on the bases LAPACK happens to return.

    Args:
        matrix: (n, d) float64.
        tolerance: Singular values up to it count as zero; by default as in ``numpy.linalg.matrix_rank``.

    >>> Q = polar_factor(torch.diag(torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)))
    >>> Q.abs().diagonal().tolist()
    [1.0, 1.0, 1.0]
    """
    left, spectrum, right = torch.linalg.svd(matrix, full_matrices=False)
    if tolerance is None:
        tolerance = spectrum[0].item() * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    rank = int((spectrum > tolerance).sum())
    left, right = left[:, :rank], right[:rank]
    factor = left @ right
    if missing := len(spectrum) - rank:
        free = _gaussian(*matrix.shape)
        for _ in range(2):  # twice: the second removes the rounding of the first
            free = free - left @ (left.T @ free)
            free = free - (free @ right.T) @ right
        free_left, _, free_right = torch.linalg.svd(free, full_matrices=False)
        factor = factor + free_left[:, :missing] @ free_right[:missing]
    return factor


def orient_simplex(means: Tensor) -> Tensor:
    r"""The simplex ETF turned toward given class means, in closed form.

    .. math:: M = \sqrt{\tfrac{K}{K-1}}\, V Q, \qquad Q = \operatorname{polar}(V^\top \bar H)

    with V the orthonormal basis of the sum-zero vectors of R^K and H the class means: of all simplex ETFs
    in R^d the nearest to the centred means, for K <= d + 1. Their norm does not matter. Rank-deficient
    means (equal or empty classes) leave some directions open: those are completed deterministically.

    Orthogonal Procrustes, as in "Guiding Neural Collapse" (Markou, Ajanthan & Gould, NeurIPS 2024,
    arXiv 2411.01248), here solved once or every so often instead of as a layer.

    Args:
        means: (K, d), 2 <= K <= d + 1; any floating type, any device.

    Returns:
        Tensor: (K, d) float64 on the CPU, unit rows whose pairwise cosine is -1/(K - 1).

    Raises:
        ValueError: If the shape does not fit, a row is not finite, or K > d + 1.

    >>> means = torch.tensor([[9.0, 1.0, 5.0], [1.0, 2.0, 5.0]])
    >>> [[round(x, 4) + 0.0 for x in row] for row in orient_simplex(means).tolist()]  # (8, -1, 0) / sqrt(65)
    [[0.9923, -0.124, 0.0], [-0.9923, 0.124, 0.0]]
    """
    means = checked_means(means)
    num_classes, in_features = means.shape
    if num_classes > in_features + 1:
        raise ValueError(
            f"means: {num_classes} classes in {in_features} dimensions; a simplex ETF needs K <= d + 1 = "
            f"{in_features + 1}: use class_means_code instead"
        )
    basis = helmert_matrix(num_classes)
    factor = polar_factor(basis.T @ (means - means.mean(0)), tolerance=_rounding(means))
    return math.sqrt(num_classes / (num_classes - 1)) * basis @ factor


def class_means_code(
    means: Tensor,
    in_features: int,
    *,
    exponent: float = 0.25,
    centre: bool = True,
    rotate: bool | None = None,
) -> Tensor:
    r"""Unit class vectors that keep the similarities of class means, for any K: softened components.

    .. math:: (I - \tfrac1K 1 1^\top) \bar H = P S R^\top, \qquad
              M = \operatorname{unit\ rows}(P_{1..d}\, S_{1..d}^{\,e}\, R_{1..d}^\top)

    without the last factor where the means are those of the inputs, whose m coordinates are not the
    trunk's. With exponent 1 these are the principal components of the means, with 0 they are whitened.

    Dimensions beyond the means' rank are zero, and the head then reads only a part of the features. A class
    whose mean is the overall one (an empty class) gets a fixed Gaussian direction; of classes with one mean
    all but one are tilted by such a direction, to a cosine of about 0.995: every two stay separable.

    Args:
        means: (K, m) class means, of the trunk's features or of the inputs.
        in_features: d, the width of the class vectors, at least 2.
        exponent: e >= 0, of the singular values.
        centre: Whether the mean of the class means is subtracted.
        rotate: Whether the vectors are turned back to the means' own axes, so that they point to the class
            means. None: where m = d.

    Returns:
        Tensor: (K, d) float64 on the CPU, unit rows.

    Raises:
        ValueError: If a shape does not fit, a row is not finite, ``exponent`` is negative, or ``rotate`` is
            set with m != d.

    >>> means = torch.tensor([[4.0, 0.0], [0.0, 1.0], [-4.0, 0.0], [0.0, -1.0]])
    >>> class_means_code(means, 2).abs().round().tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    means = checked_means(means)
    width = means.shape[1]
    in_features = checked_size("in_features", in_features, 2)  # on a line only two unit vectors differ
    if not (math.isfinite(exponent) and exponent >= 0):
        raise ValueError(f"exponent={exponent!r}: expected a number >= 0")
    rotate = width == in_features if rotate is None else rotate
    if rotate and width != in_features:
        raise ValueError(
            f"rotate=True with means of width {width}: only means of width in_features={in_features} have "
            "the axes of the features"
        )
    centred = means - means.mean(0) if centre else means
    left, spectrum, right = torch.linalg.svd(centred, full_matrices=False)
    # Rows become unit: only ratios count, and powers of ratios do not overflow.
    largest = spectrum[0].clamp(min=torch.finfo(spectrum.dtype).tiny)
    energy = torch.where(spectrum > _rounding(means), (spectrum / largest) ** exponent, 0.0)
    # A component's sign is free: a fixed Gaussian vector decides it (largest entries may tie).
    sign = torch.where(right @ _gaussian(width) < 0, -1.0, 1.0)
    scores = (left * (sign * energy))[:, :in_features]
    if rotate:
        code = scores @ (sign[:, None] * right)
    else:
        code = torch.nn.functional.pad(scores, (0, in_features - scores.shape[1]))
    return _distinct_unit_rows(code)


def _distinct_unit_rows(code: Tensor) -> Tensor:
    """Unit rows, no two of them equal: rows of zeros are drawn, repeated ones tilted."""
    norm = code.norm(dim=1)
    zero = (norm <= _SAME * norm.max()).nonzero().flatten()
    code[zero] = _gaussian(len(zero), code.shape[1])
    code = torch.nn.functional.normalize(code, dim=1)
    # Equal rows have equal products with a fixed vector: sorted by it they are neighbours.
    order = (code @ _gaussian(code.shape[1])).argsort(stable=True)
    again = order[1:][(code[order[1:]] - code[order[:-1]]).norm(dim=1) <= _SAME].sort().values
    tilt = _gaussian(len(again), code.shape[1]) / math.sqrt(code.shape[1])
    code[again] = torch.nn.functional.normalize(code[again] + _TILT * tilt, dim=1)
    return code
