"""Out-of-distribution scores read off collapsed features: NECO and NCI. Higher is more in-distribution."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from etfhead.metrics._checks import checked_vectors, wide_dtype
from etfhead.metrics.class_moments import ClassMoments, add_batch, empty_moments
from etfhead.metrics.functional import predicted_classes

__all__ = ["PrincipalDirections", "nci_score", "neco_score", "principal_directions"]

_SAMPLES = 4096  # rows widened at once
_STILL = 1e4  # a feature whose standard deviation is below this many eps of its mean does not vary


class PrincipalDirections(NamedTuple):
    """Where training features vary most, as :func:`neco_score` reads it.

    Attributes:
        mean: Mean training feature, (d,); also the ``feature_mean`` of :func:`nci_score`.
        scale: What features are divided by, (d,): standard deviations, or ones.
        components: Orthonormal rows (n, d), by falling variance.
        explained: Share of the variance along each of them, (n,).
    """

    mean: Tensor
    scale: Tensor
    components: Tensor
    explained: Tensor


def principal_directions(
    features: Tensor | ClassMoments, n: int | float = 0.9, *, standardize: bool = True
) -> PrincipalDirections:
    r"""Principal components of training features: what NECO takes for the span of the class means.

    .. math:: \tfrac1N \sum_i u_i u_i^T = V \Lambda V^T, \qquad u_i = (h_i - \mu) / \sigma

    with sigma the standard deviation of every feature, or 1.

    Args:
        features: Training features (N, d), or the moments of a stream of them, such as
            :attr:`NeuralCollapse.moments <etfhead.metrics.NeuralCollapse.moments>` without a projection.
        n: How many components, from 1 to min(d, N - 1); a float from 0 to 1 takes as many as explain at least
            that share of the variance. Ben Ammar et al. advise 90 % (arXiv 2310.06823, appendix C.5; their
            tables use the best n of each pair of data sets). At collapse K - 1 components hold everything.
        standardize: Divide features by their standard deviation first, as the paper's released code always
            does, while its comments advise against it where classes are well separated. The paper's equation
            has no such step, and the class means' simplex survives only without it.

    Returns:
        PrincipalDirections: In float64.

    Raises:
        ValueError: If the features do not fit, do not vary or are not finite, or n is out of range.

    >>> features = torch.tensor([[3.0, 0.1], [-3.0, 0.1], [3.0, -0.1], [-3.0, -0.1]])
    >>> directions = principal_directions(features, standardize=False)
    >>> directions.components.abs(), directions.explained  # one of two holds 90 % and more
    (tensor([[1., 0.]], dtype=torch.float64), tensor([0.9989], dtype=torch.float64))
    """
    moments = features if isinstance(features, ClassMoments) else _moments_of(features)
    samples, width = int(moments.counts.sum()), moments.sums.shape[1]
    if moments.scatter.shape[0] != width:
        raise ValueError(
            f"features: expected moments without a projection, scatter of shape ({width}, {width}), "
            f"got {tuple(moments.scatter.shape)}"
        )
    if samples < 2:
        raise ValueError(f"features: expected at least 2 training samples, got {samples}")
    _check_number(n, min(width, samples - 1))
    mean = moments.sums.sum(0) / samples
    between = moments.counts.sqrt()[:, None] * (moments.means - mean)
    covariance = (moments.scatter + between.T @ between) / samples
    deviation = covariance.diagonal().clamp(min=0.0).sqrt()
    varies = deviation > _STILL * torch.finfo(deviation.dtype).eps * mean.abs()
    if not varies.any():
        raise ValueError(f"features: all {samples} training samples are the same")
    scale = deviation.where(varies, 1.0) if standardize else torch.ones_like(mean)
    values, vectors = torch.linalg.eigh(covariance / (scale[:, None] * scale))
    shares = values.clamp(min=0.0).flip(0) / values.clamp(min=0.0).sum()
    if isinstance(n, float):
        reached = int((shares.cumsum(0) < n).sum()) + 1
        n = min(reached, width, samples - 1)
    return PrincipalDirections(mean, scale, vectors.flip(1).T[:n].contiguous(), shares[:n])


def neco_score(
    features: Tensor, directions: PrincipalDirections, logits: Tensor | None = None, *, center: bool = True
) -> Tensor:
    r"""NECO: how much of a feature lies in the principal directions of the training features.

    .. math:: \mathrm{NECO}(h) = \frac{\lVert V^T u \rVert_2}{\lVert u \rVert_2} \; [\, \max_k z_k \,],
              \qquad u = (h - \mu) / \sigma

    Ben Ammar et al., "NECO: NEural Collapse Based Out-of-distribution detection" (ICLR 2024, arXiv
    2310.06823), eq. 6. The paper prints u = h (``center=False`` of directions found with
    ``standardize=False``); its released code standardises and centres, the defaults here. The largest logit
    multiplies the ratio for vision transformers, and where d is smaller than the number of classes; the
    paper's ResNet-18 does without. A largest logit below zero turns the order around.

    Args:
        features: What the classifier multiplies, (B, d).
        directions: Of training features of the same layer.
        logits: (B, K) to multiply the ratio with their largest; None for the ratio alone.
        center: Subtract the training mean from features.

    Returns:
        Tensor: (B,), higher is more in-distribution; from 0 to 1 without logits. In float64, because scores
        of a collapsed network crowd below 1. A feature at the mean scores 0.

    Raises:
        ValueError: If a shape does not fit or a number is not finite.

    >>> directions = principal_directions(torch.tensor([[2.0, 0, 0], [-2.0, 0, 0]]), 1, standardize=False)
    >>> neco_score(torch.tensor([[9.0, 0, 0], [3.0, 4.0, 0], [0, 0, 1.0]]), directions)
    tensor([1.0000, 0.6000, 0.0000], dtype=torch.float64)
    """
    wide = _rows("features", features, len(directions.mean))
    mean, scale, components = (part.to(wide) for part in directions[:3])
    unit = _below_one((wide - mean if center else wide) / scale)
    whole = unit.norm(dim=1)
    ratio = (unit @ components.T).norm(dim=1) / whole.where(whole > 0, 1.0)
    ratio = ratio.clamp(max=1.0)
    if logits is None:
        return ratio
    scores = _rows("logits", logits)
    if len(scores) != len(wide):
        raise ValueError(f"logits: expected {len(wide)} rows as features, got {len(scores)}")
    return ratio * scores.amax(1).to(wide)


def nci_score(
    features: Tensor,
    weight: Tensor,
    feature_mean: Tensor,
    *,
    bias: Tensor | None = None,
    predictions: Tensor | None = None,
    alpha: float = 1e-4,
) -> Tensor:
    r"""NCI: how far a centred feature points along its class vector, plus a filter on its norm.

    .. math:: \mathrm{NCI}(h) = \frac{\langle w_c,\, h - \mu_G \rangle}{\lVert h - \mu_G \rVert_2}
              + \alpha \lVert h \rVert_1

    with c the predicted class: cos(w_c, h - mu_G) times the norm of w_c. Liu & Qin, "Detecting
    out-of-distribution through the lens of neural collapse" (CVPR 2025, arXiv 2311.01479). The class vector
    is not normalised: a longer one has a wider cone. The norm is of the feature as it is, not centred.

    Args:
        features: What the class vectors multiply, (B, d).
        weight: Class vectors, (K, d), K at least 2.
        feature_mean: mu_G, the mean of all training features, (d,), not of the class means.
        bias: The classifier's bias, (K,), for the predicted class alone.
        predictions: The classifier's classes, (B,), instead of those that ``weight`` and ``bias`` name.
        alpha: Strength of the filter. The authors pick one of 1e-4, 1e-3, 1e-2 and 1e-1 on validation data
            with known outliers; 1e-4 is where their released code starts, 0 leaves the direction alone.

    Returns:
        Tensor: (B,), higher is more in-distribution, in float64. A feature at the mean scores its filter.

    Raises:
        ValueError: If a shape does not fit, a class is out of range or a number is not finite.

    >>> weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> nci_score(torch.tensor([[5.0, 0.0], [3.0, 4.0], [0.0, 2.0]]), weight, torch.zeros(2), alpha=0.0)
    tensor([1.0000, 0.6000, 0.0000], dtype=torch.float64)
    """
    wide = _rows("features", features)
    vectors = _rows("weight", weight, wide.shape[1]).to(wide)
    mean = _vector("feature_mean", feature_mean, wide.shape[1]).to(wide)
    if isinstance(alpha, bool) or not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha={alpha!r}: expected a number >= 0")
    if predictions is None:
        offset = None if bias is None else _vector("bias", bias, len(vectors)).to(wide)
        predictions = predicted_classes(wide, vectors, offset)
    elif bias is not None:
        raise ValueError("bias: is for naming the classes; leave it out beside predictions")
    else:
        predictions = _classes(predictions, len(wide), len(vectors)).to(wide.device)
    unit = _below_one(wide - mean)
    length = unit.norm(dim=1)
    along = (unit * vectors[predictions]).sum(1) / length.where(length > 0, 1.0)
    return along + alpha * wide.abs().sum(1)


def _moments_of(features: Tensor) -> ClassMoments:
    """All features as one class."""
    _check_matrix("features", features)
    dtype = wide_dtype(features.device)
    moments = empty_moments(1, features.shape[1], device=features.device, dtype=dtype)
    for part in features.split(_SAMPLES):
        wide = _rows("features", part)
        add_batch(moments, wide, torch.zeros(len(wide), dtype=torch.int64, device=wide.device))
    return moments


def _below_one(rows: Tensor) -> Tensor:
    """Rows over their largest entry, whose squares neither overflow nor vanish; zero stays zero."""
    largest = rows.abs().amax(1, keepdim=True)
    return rows / largest.where(largest > 0, 1.0)


def _check_number(n: int | float, most: int) -> None:
    share = isinstance(n, float) and 0.0 < n <= 1.0
    count = isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= most
    if not (share or count):
        raise ValueError(
            f"n={n!r}: expected 1 to {most} components, the most that these features have, "
            "or a float in (0, 1], the share of the variance to keep"
        )


def _check_matrix(argument: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or value.ndim != 2 or not value.shape[1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{argument}: expected a matrix, one row a sample, got {got}")


def _rows(argument: str, value: Tensor, width: int | None = None) -> Tensor:
    _check_matrix(argument, value)
    return checked_vectors(argument, value, len(value), width)


def _vector(argument: str, value: Tensor, length: int) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (length,):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{argument}: expected shape ({length},), got {got}")
    return checked_vectors(argument, value[None], 1)[0]


def _classes(predictions: Tensor, samples: int, classes: int) -> Tensor:
    integral = isinstance(predictions, Tensor) and not (
        predictions.is_floating_point() or predictions.dtype == torch.bool
    )
    if not integral or predictions.shape != (samples,):
        got = tuple(predictions.shape) if isinstance(predictions, Tensor) else type(predictions).__name__
        raise ValueError(f"predictions: expected {samples} integer classes, got {got}")
    if samples and not 0 <= int(predictions.min()) <= int(predictions.max()) < classes:
        raise ValueError(
            f"predictions: expected classes from 0 to {classes - 1}, "
            f"got {int(predictions.min())} to {int(predictions.max())}"
        )
    return predictions.detach().long()
