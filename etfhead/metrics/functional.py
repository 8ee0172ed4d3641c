"""Neural collapse of features that are all there at once."""

from __future__ import annotations

from torch import Tensor

from etfhead.metrics._checks import checked_batch, checked_bias, checked_predictions, checked_vectors
from etfhead.metrics.class_moments import add_batch, empty_moments
from etfhead.metrics.collapse_figures import collapse_figures
from etfhead.metrics.nearest_centre import nearest_centre_disagreement

__all__ = ["neural_collapse", "predicted_classes"]


def neural_collapse(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    predictions: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""Neural collapse of the features of a last layer: NC1 to NC4 (Papyan, Han & Donoho 2020).

    .. math:: \mathrm{NC1} = \tfrac1K \mathrm{tr}(\Sigma_W \Sigma_B^+), \quad
              \mathrm{NC3} = \left\lVert \tfrac{W}{\lVert W \rVert_F} - \tfrac{M}{\lVert M \rVert_F}
              \right\rVert_F^2, \quad
              \mathrm{NC4} = P\left[\arg\max_c (W h + b)_c \ne \arg\min_c \lVert h - \mu_c \rVert\right]

    arXiv 2008.08186. M are the class means minus their unweighted mean. Everything is over the C <= K classes
    that have a sample; a class with one counts with no spread. All figures are 0 at exact collapse.

    Args:
        features: What the class vectors multiply, (N, d).
        labels: Classes, (N,).
        num_classes: K, at least 2.
        weight: Class vectors W, (K, d).
        bias: b, (K,).
        predictions: The classifier's classes, (N,); None takes the argmax of ``features @ weight.T + bias``.

    Returns:
        dict: Scalars, float64.

        - ``nc1``: with the factor 1/K of most papers (C for K if classes are missing); ``nc1_trace``: without
          it; ``nc1_quotient``: tr Sigma_W / tr Sigma_B.
        - ``cdnv``: :func:`~etfhead.metrics.class_distance_variance`.
        - ``nc2_equinorm``, ``nc2_equiangular``, ``nc2_etf``: :func:`~etfhead.metrics.simplex_distance` of M.
        - ``nc2w_equinorm``, ``nc2w_equiangular``, ``nc2w_etf``: the same of W.
        - ``nc3``: :func:`~etfhead.metrics.self_duality`; ``nc3_product``:
          :func:`~etfhead.metrics.product_distance`. Figures of W are left out if W is zero.
        - ``nc4``: share of samples, with ``weight`` or ``predictions``.
        - ``missing_classes``, ``single_sample_classes``: how many.

    Raises:
        ValueError: On shapes or types that do not fit, labels out of range, numbers that are not finite,
            fewer than two classes, no class with two samples, or class means that all coincide.

    >>> import torch
    >>> labels = torch.arange(6) % 3
    >>> vectors = torch.eye(3) - 1 / 3
    >>> figures = neural_collapse(5 + 2 * vectors[labels], labels, 3, weight=vectors)
    >>> all(float(value) < 1e-6 for value in figures.values())
    True
    """
    wide, labels = checked_batch(features, labels, num_classes)
    if predictions is not None:
        predictions = checked_predictions(predictions, len(wide))
    if bias is not None:
        bias = checked_bias(bias, num_classes)
    moments = empty_moments(num_classes, wide.shape[1], device=wide.device, dtype=wide.dtype)
    add_batch(moments, wide, labels)
    if weight is not None:
        weight = checked_vectors("weight", weight, num_classes, wide.shape[1]).to(wide)
    figures = collapse_figures(moments, weight)
    if predictions is None and weight is not None:
        predictions = predicted_classes(wide, weight, bias)
    if predictions is not None:
        wrong = nearest_centre_disagreement(wide, moments.means, predictions, moments.counts > 0)
        figures["nc4"] = wrong.to(wide.dtype) / len(wide)
    return figures


def predicted_classes(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """argmax_c (W h + b)_c, (B,)."""
    logits = features @ weight.to(features).T
    return (logits if bias is None else logits + bias.to(features)).argmax(1)
