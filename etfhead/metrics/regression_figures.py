"""The figures of neural regression collapse, from moments: NRC1, NRC2 and NRC3."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.metrics.regression_moments import RegressionMoments

__all__ = ["regression_figures", "weight_gram_distance"]

_CONSTANT = 1e-12  # standard deviation, relative to the mean, of what does not vary
_RANK = 1e-6  # singular values of a weight in float32 that count as zero, relative to the largest


def regression_figures(moments: RegressionMoments, weight: Tensor | None = None) -> dict[str, Tensor]:
    """See :func:`~etfhead.metrics.regression_collapse`.

    Args:
        moments: Of all samples.
        weight: W, (n, d), in the moments' type; None leaves out NRC2 and NRC3.

    Raises:
        ValueError: If there are no more samples than targets, a target is constant or all features are equal.
    """
    width = len(moments.unit_products)
    scatter, means, count = moments.joint.scatter, moments.joint.means[0], moments.joint.counts[0]
    targets = len(means) - width
    if count <= targets:
        raise ValueError(
            f"features: {int(count)} samples do not show the principal components of {targets} targets; add "
            "more samples than targets"
        )
    covariance = scatter[width:, width:] / count
    constant = covariance.diagonal().sqrt() <= _CONSTANT * means[width:].abs()
    if bool(constant.any()):
        which = constant.nonzero().flatten().tolist()
        raise ValueError(f"targets: {which} of {targets} are the same number in every sample; leave them out")
    unit_products = moments.unit_products / count
    figures = {"nrc1": _outside(unit_products, _principal(scatter[:width, :width] / count, means, targets))}
    if weight is not None and bool((weight != 0).any()):
        figures["nrc2"] = _outside(unit_products, _row_space(weight))
        if targets > 1:
            figures["nrc3"], figures["gamma"] = weight_gram_distance(weight, covariance)
    figures["zero_features"] = moments.zero_features
    return figures


def weight_gram_distance(weight: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    r"""NRC3 with the gamma that makes it least, in closed form.

    .. math:: \min_{0 \le \gamma \le \lambda_{\min}} \left\lVert
              \frac{W W^T}{\lVert W W^T \rVert_F} - \frac{\Sigma^{1/2} - \gamma^{1/2} I}
              {\lVert \Sigma^{1/2} - \gamma^{1/2} I \rVert_F} \right\rVert_F^2

    With the normalised Gram matrix a, :math:`m = \tfrac1n \mathrm{tr}\,\Sigma^{1/2}`,
    :math:`S_0 = \Sigma^{1/2} - m I` and :math:`\alpha = \langle a, S_0 \rangle`, the best gamma^{1/2} is
    :math:`m - \lVert S_0 \rVert_F^2\, \mathrm{tr}(a) / (n \alpha)`, clipped, and 0 for alpha <= 0. Without
    the limits W W^T = I would be at distance 0 from any covariance. Gamma is that of this weight: the paper
    takes that of the last epoch for all.

    Args:
        weight: W, (n, d), not zero.
        covariance: Sigma, (n, n), of the targets.

    Returns:
        tuple: The distance and gamma, scalars.

    >>> distance, gamma = weight_gram_distance(torch.eye(2) * torch.tensor([2.0, 1.0]).sqrt(),
    ...                                        torch.diag(torch.tensor([9.0, 4.0])))
    >>> round(distance.item(), 6), round(gamma.item(), 4)  # diag(2, 1) = diag(3, 2) - 1
    (0.0, 1.0)
    """
    gram = weight @ weight.T
    gram = gram / gram.norm()
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    roots = eigenvalues.clamp(min=0.0).sqrt()
    mean = roots.mean()
    # In the eigenbasis of Sigma all but the Gram matrix is diagonal.
    turned = vectors.T @ gram @ vectors
    spread = roots - mean
    alpha, energy = (turned.diagonal() * spread).sum(), spread.square().sum()
    best = mean - energy * turned.diagonal().sum() / (len(roots) * alpha.clamp(min=1e-300))
    # Equal variances leave gamma open, and nothing at all at its upper limit.
    open_ = energy <= (torch.finfo(roots.dtype).eps * mean).square() * len(roots) ** 2
    root = torch.where((alpha > 0) & ~open_, best, 0.0).clamp(min=0.0)
    root = torch.minimum(root, roots[0])
    target = roots - root
    return (turned - torch.diag(target / target.norm())).square().sum(), root.square()


def _principal(covariance: Tensor, means: Tensor, count: int) -> Tensor:
    """The first principal components as columns, (d, at most ``count``): those that have a variance."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    width, largest = len(eigenvalues), eigenvalues[-1]
    if bool(largest <= (_CONSTANT * means[:width].norm()).square()):
        raise ValueError(
            "features: they are the same in every sample; the network is dead, or its weight decay so strong "
            "that everything collapsed to zero"
        )
    kept = eigenvalues[-count:] > width * torch.finfo(eigenvalues.dtype).eps * largest
    return vectors[:, -count:][:, kept]


def _row_space(weight: Tensor) -> Tensor:
    """An orthonormal basis of the span of the rows, as columns."""
    _, spectrum, right = torch.linalg.svd(weight, full_matrices=False)
    return right[spectrum > _RANK * spectrum[0]].T


def _outside(unit_products: Tensor, basis: Tensor) -> Tensor:
    """Mean squared length of what normalised features have outside the span of orthonormal columns."""
    rest = unit_products - basis @ (basis.T @ unit_products)
    rest = rest - (rest @ basis) @ basis.T
    return rest.trace().clamp(min=0.0)
