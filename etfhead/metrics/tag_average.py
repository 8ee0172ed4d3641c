"""How well the class mean of a label set is the scaled sum of its labels' own class means."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.metrics.class_moments import ClassMoments
from etfhead.metrics.collapse_figures import centred_means
from etfhead.metrics.variability import between_classes

__all__ = ["angles", "tag_average_figures"]


def angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles between rows in degrees, exact near 0 and 180 where an arc cosine is not; 90 to a zero row.

    >>> angles(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [5.0, 0.0]])).tolist()
    [90.0, 0.0]
    """
    one, other = (torch.nn.functional.normalize(rows, dim=1) for rows in (first, second))
    return torch.rad2deg(2.0 * torch.atan2((one - other).norm(dim=1), (one + other).norm(dim=1)))


def tag_average_figures(
    singles: ClassMoments,
    labels: Tensor,
    sets: ClassMoments,
    *,
    weight: Tensor | None = None,
    min_samples: int = 1,
) -> dict[str, Tensor]:
    r"""Tag-wise averages of each multiplicity, against class means of samples that carry one label.

    For the label sets S with m labels, with mu_k the means of the samples with label k alone and mu_G their
    mean,

    .. math:: \mathrm{error}_m = \frac{\lVert (\mu_S - \mu_G) - C_m \sum_{k \in S} (\mu_k - \mu_G)
              \rVert}{\lVert \mu_S - \mu_G \rVert}, \qquad C_m \text{ by least squares},

    norms over all those sets together, each counting once.

    Args:
        singles: Moments (K, d) of the samples with one label.
        labels: (S, K) multi-hot, different sets of two labels or more; empty rows are not used.
        sets: Moments (S, d) of the samples of those sets.
        weight: Class vectors (K, d): with them the same figures for the part of the features that
            moves logits against each other, in the span of the class vectors minus their mean. All zero, they
            count as not given.
        min_samples: Sets of fewer samples are left out: their mean is mostly noise.

    Returns:
        dict: For each m that occurs ``tag_error_m<m>``, ``tag_angle_m<m>`` (mean angle in degrees between
        mu_S - mu_G and the sum), ``tag_scale_m<m>`` (C_m), ``tag_sets_m<m>`` (how many), and
        ``nc1_quotient_m<m>``, the variance within sets over that of the set means around mu_G; ``tag_error``
        and ``tag_angle``, means over m; ``tag_sets_left_out``: sets of too few samples, with a label that
        has no sample of its own, or of all labels (their sum is zero). With ``weight``
        ``tag_error_in_span``, ``tag_angle_in_span`` and ``tag_scale_in_span_m<m>`` too, and so on.
    """
    centred, seen = centred_means(singles)
    base = singles.means[seen]
    # Against one of the means first: a common offset, however large, leaves exactly.
    middle = (base - base[0]).mean(0)
    gaps = (sets.means - base[0]) - middle
    vectors = gaps.new_zeros(len(seen), gaps.shape[1])
    vectors[seen] = centred
    hot = labels.bool()
    sizes = hot.sum(1)
    present = sizes > 0
    usable = present & ~(hot & ~seen).any(1) & (sizes < seen.sum()) & (sets.counts >= min_samples)
    directions = None if weight is None else between_classes(weight - weight.mean(0)).directions
    figures: dict[str, Tensor] = {}
    for m in sizes[usable].unique().tolist():
        chosen = usable & (sizes == m)
        mean, total = gaps[chosen], hot[chosen].to(gaps.dtype) @ vectors
        figures |= {f"tag_{name}_m{m}": value for name, value in _compared(mean, total).items()}
        if directions is not None and directions.shape[1]:
            inside = _compared(mean @ directions, total @ directions)
            figures |= {f"tag_{name}_in_span_m{m}": value for name, value in inside.items()}
        within = sets.squares[chosen].sum() / sets.counts[chosen].sum()
        figures[f"tag_sets_m{m}"] = chosen.sum()
        figures[f"nc1_quotient_m{m}"] = within / mean.square().sum(1).mean()
    for name in ("tag_error", "tag_angle", "tag_error_in_span", "tag_angle_in_span"):
        found = [value for key, value in figures.items() if key.rpartition("_m")[0] == name]
        if found:
            figures[name] = torch.stack(found).mean()
    return figures | {"tag_sets_left_out": (present & ~usable).sum()}


def _compared(mean: Tensor, total: Tensor) -> dict[str, Tensor]:
    """Least-squares scale of the sums, and what is then left of the set means, (S, d) both."""
    scale = (mean * total).sum() / total.square().sum()
    return {
        "error": (mean - scale * total).norm() / mean.norm(),
        "angle": angles(mean, total).mean(),
        "scale": scale,
    }
