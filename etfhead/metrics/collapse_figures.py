"""NC1, NC2, NC3 and CDNV from the moments of the features."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.metrics.class_moments import ClassMoments
from etfhead.metrics.simplex_geometry import product_distance, self_duality, simplex_distance, unit_rows
from etfhead.metrics.variability import class_distance_variance, within_over_between

__all__ = ["centred_means", "class_values", "collapse_figures"]

_ROUNDING = 64  # units of rounding of the means below which what is left between them counts as nothing


def centred_means(moments: ClassMoments) -> tuple[Tensor, Tensor]:
    """Means of the classes seen minus their mean, (C, d), and which classes those are, (K,) bool.

    Raises:
        ValueError: If fewer than two classes have a sample, or all class means coincide.
    """
    seen = moments.counts > 0
    if int(seen.sum()) < 2:
        raise ValueError(
            f"labels: {int(seen.sum())} of {len(seen)} classes have a sample; collapse compares at "
            "least two: update() with more classes first"
        )
    means = moments.means[seen]
    # Against the first mean: means that coincide exactly leave exactly nothing.
    shifted = means - means[0]
    centred = shifted - shifted.mean(0)
    if bool(centred.norm() <= _ROUNDING * torch.finfo(means.dtype).eps * means.norm()):
        raise ValueError(
            "features: all class means coincide, so there is nothing between the classes to compare with; "
            "is the network dead, or its features constant?"
        )
    return centred, seen


def collapse_figures(
    moments: ClassMoments, weight: Tensor | None = None, projection: Tensor | None = None
) -> dict[str, Tensor]:
    """NC1, NC2, NC3 and CDNV of the classes seen, by the keys of :func:`~etfhead.metrics.neural_collapse`.

    Args:
        moments: Of the features.
        weight: Class vectors (K, d) in the moments' type; all zero (an untrained head may be), they count as
            not given.
        projection: P, (d, m), as the moments were taken with.

    Raises:
        ValueError: If fewer than two classes have a sample, no class has two, or all class means
            coincide.
    """
    centred, seen = centred_means(moments)
    counts = moments.counts[seen]
    samples = counts.sum()
    if bool((counts < 2).all()):
        raise ValueError(
            "labels: every class seen has a single sample, which has no spread within its class; "
            "update() with more samples first"
        )
    classes = len(centred)
    inside = centred if projection is None else centred @ projection
    trace = within_over_between(moments.scatter, samples, inside)
    within, between = moments.squares.sum() / samples, centred.square().sum() / classes
    means = simplex_distance(centred)
    figures = {
        "nc1": trace / classes,
        "nc1_trace": trace,
        "nc1_quotient": within / between,
        "cdnv": class_distance_variance(centred, moments.squares[seen] / counts),
        "nc2_equinorm": means.equinorm,
        "nc2_equiangular": means.equiangular,
        "nc2_etf": means.etf,
    }
    if projection is not None:
        figures["between_in_projection"] = inside.square().sum() / centred.square().sum()
    if weight is not None and bool((weight != 0).any()):
        vectors = simplex_distance(weight)
        figures |= {
            "nc2w_equinorm": vectors.equinorm,
            "nc2w_equiangular": vectors.equiangular,
            "nc2w_etf": vectors.etf,
            "nc3": self_duality(weight[seen], centred),
            "nc3_product": product_distance(weight[seen], centred),
        }
    figures["missing_classes"] = (~seen).sum()
    figures["single_sample_classes"] = (counts == 1).sum()
    return figures


def class_values(moments: ClassMoments, weight: Tensor | None = None) -> dict[str, Tensor]:
    """What the averages hide, for each class seen, (C,).

    Args:
        moments: Of the features.
        weight: Class vectors (K, d) in the moments' type.

    Returns:
        dict: ``classes`` (which), ``counts``; ``variance``, mean squared distance to the class mean;
        ``norm`` of the centred class mean; ``max_cosine`` to another one; with ``weight`` ``alignment``, its
        cosine with its class vector.
    """
    centred, seen = centred_means(moments)
    norms = centred.norm(dim=1)
    unit = unit_rows(centred)
    cosines = torch.cat([(rows @ unit.T) for rows in unit.split(1024)])
    cosines.fill_diagonal_(-torch.inf)
    values = {
        "classes": seen.nonzero().flatten(),
        "counts": moments.counts[seen],
        "variance": moments.squares[seen] / moments.counts[seen],
        "norm": norms,
        "max_cosine": cosines.max(1).values,
    }
    if weight is not None:
        values["alignment"] = (unit_rows(weight[seen]) * unit).sum(1)
    return values
