"""Neural regression collapse of features that are all there at once."""

from __future__ import annotations

from torch import Tensor

from etfhead.frames.base import checked_size
from etfhead.metrics._checks import checked_vectors
from etfhead.metrics.regression_figures import regression_figures
from etfhead.metrics.regression_moments import add_pairs, checked_pairs, empty_regression_moments

__all__ = ["regression_collapse"]


def regression_collapse(
    features: Tensor, targets: Tensor, num_targets: int, *, weight: Tensor | None = None
) -> dict[str, Tensor]:
    r"""Neural regression collapse of the features of a last layer: NRC1, NRC2 and NRC3.

    .. math:: \mathrm{NRC1} = \frac1M \sum_i \lVert \tilde h_i - P_n \tilde h_i \rVert^2, \quad
              \mathrm{NRC2} = \frac1M \sum_i \lVert \tilde h_i - P_W \tilde h_i \rVert^2, \quad
              \mathrm{NRC3} = \left\lVert \frac{W W^T}{\lVert W W^T \rVert_F}
              - \frac{\Sigma^{1/2} - \gamma^{1/2} I}{\lVert \Sigma^{1/2} - \gamma^{1/2} I \rVert_F}
              \right\rVert_F^2

    (Andriopoulos et al., NeurIPS 2024, arXiv 2409.04180.) h~ = h / ||h|| is normalised and not centred, P_n
    projects on the first n principal components of the centred features h, P_W on the rows of W, and Sigma is
    the covariance of these targets. All figures are 0 at full collapse and the first two at most 1. Features
    behind a ReLU do not collapse this way. With n = 2 NRC3 measures little but the angle of two axes; it is a
    test from n = 3 on.

    Args:
        features: What the weight multiplies, (M, d), d >= n.
        targets: (M, n), or (M,) for one target.
        num_targets: n, at least 1.
        weight: W, (n, d).

    Returns:
        dict: Scalars, float64.

        - ``nrc1``; ``nrc2``, with ``weight``; ``nrc3`` and its ``gamma`` (see
          :func:`~etfhead.metrics.regression_figures.weight_gram_distance`), with ``weight`` and n > 1, for
          one target it is 0 always. Figures of W are left out if W is zero.
        - ``zero_features``: samples with h = 0, which count as inside every span.

    Raises:
        ValueError: On shapes that do not fit, numbers that are not finite, d < n, no more samples than
            targets, a constant target, or features that are all equal.

    >>> import torch
    >>> targets = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    >>> weight = torch.eye(2, 5)
    >>> figures = regression_collapse((targets - targets.mean(0)) @ weight, targets, 2, weight=weight)
    >>> figures["nrc1"].item() < 1e-12, figures["nrc2"].item() < 1e-12
    (True, True)
    """
    n = checked_size("num_targets", num_targets, 1)
    wide, values = checked_pairs(features, targets, n)
    moments = empty_regression_moments(n, wide.shape[1], device=wide.device, dtype=wide.dtype)
    if len(wide):
        add_pairs(moments, wide, values)
    if weight is not None:
        weight = checked_vectors("weight", weight, n, wide.shape[1]).to(wide)
    return regression_figures(moments, weight)
