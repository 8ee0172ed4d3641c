"""Memorization and dilation from moments: how far wrong labels pull features, and what clean ones pay."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.metrics._checks import checked_batch, checked_predictions
from etfhead.metrics.class_moments import ClassMoments, add_batch, empty_moments, merge_moments
from etfhead.metrics.collapse_figures import centred_means
from etfhead.metrics.variability import within_over_between

__all__ = [
    "corrupted_sums",
    "memorization_dilation_figures",
    "memorization_figures",
    "named_classes",
]

_ROWS = 1024  # class means compared with all others at once


def memorization_figures(
    features: Tensor,
    labels: Tensor,
    observed: Tensor,
    num_classes: int,
    *,
    predictions: Tensor | None = None,
    test_features: Tensor | None = None,
    test_labels: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""Memorization of wrong labels and dilation of clean data, of features that are all there at once.

    .. math:: \mathrm{mem} = \frac1C \sum_c \sum_{j:\, y_j = c \ne \tilde y_j} \lVert h_j - \mu_c \rVert

    with mu_c the mean feature of training samples whose label c is right. "Memorization-Dilation: modeling
    neural collapse under noise" (ICLR 2023, arXiv 2206.05530). That sum grows with the samples and with the
    features' scale: read ``memorization_relative`` across networks.

    Args:
        features: Of training samples, (N, d).
        labels: Their true classes, (N,).
        observed: The classes they were trained on, (N,).
        num_classes: K, at least 2.
        predictions: The network's classes of the training samples, (N,).
        test_features: Of clean test samples, (M, d).
        test_labels: Their classes, (M,).

    Returns:
        dict: Scalars, float64.

        - ``noise_rate``: share of training samples with a wrong label; ``corrupted``: how many.
        - ``separation``: mean distance between two of the mu_c.
        - ``memorization_sum``: the formula, C classes with a right label. Without a wrong label it is 0 and
          the next five are left out.
        - ``memorization``: mean of those distances; ``memorization_relative``: over ``separation``.
        - ``corruption_bias``: mean of <h - mu_y, mu_y' - mu_y> / |mu_y' - mu_y|, how far a sample is moved
          toward its wrong class y'; ``corruption_bias_relative``: as a share of the way, 0 at the true class'
          mean and 1 at the wrong one's.
        - ``memorized_fraction``, ``recovered_fraction``: of wrongly labelled samples, those predicted as
          labelled and as true; with ``predictions``.
        - ``nc1_train_true``, ``nc1_train_observed``, ``nc1_train_clean``: NC1 of the training samples by true
          and by observed labels, and of those with a right label.
        - ``dilation``: NC1 of the test samples; ``dilation_relative``: root mean square distance to their
          class means over the mean distance between two of these.

    Raises:
        ValueError: If labels are out of range, features do not fit or are not finite, fewer than two classes
            have a right label, or class means coincide.

    >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
    >>> features = torch.tensor([[0.0], [0.2], [0.8], [2.0], [2.2], [1.0]])
    >>> figures = memorization_figures(features, labels, torch.tensor([0, 0, 1, 1, 1, 0]), 2)
    >>> round(figures["memorization"].item(), 2), round(figures["corruption_bias_relative"].item(), 2)
    (0.9, 0.45)
    """
    wide, labels = checked_batch(features, labels, num_classes)
    _, observed = checked_batch(features, observed, num_classes)
    wrong = observed != labels

    def moments_of(h: Tensor, y: Tensor) -> ClassMoments:
        moments = empty_moments(num_classes, wide.shape[1], device=h.device, dtype=h.dtype)
        add_batch(moments, h, y)
        return moments

    clean = moments_of(wide[~wrong], labels[~wrong])
    if predictions is not None:
        predictions = named_classes(predictions, labels)[wrong]
    test = None
    if test_features is not None and test_labels is not None:
        test = moments_of(*checked_batch(test_features, test_labels, num_classes, wide.shape[1]))
    elif test_features is not None or test_labels is not None:
        raise ValueError("test_features, test_labels: pass both or neither")
    sums = corrupted_sums(clean, wide[wrong], labels[wrong], observed[wrong], predictions)
    return memorization_dilation_figures(
        clean, moments_of(wide[wrong], labels[wrong]), moments_of(wide[wrong], observed[wrong]), test, sums
    )


def named_classes(predictions: Tensor, labels: Tensor) -> Tensor:
    """Predicted classes (B,) on the labels' device; logits (B, K) give their largest."""
    if predictions.ndim == 2 and predictions.is_floating_point():
        predictions = predictions.argmax(1)
    return checked_predictions(predictions, len(labels)).to(labels.device, torch.int64)


def corrupted_sums(
    clean: ClassMoments, features: Tensor, labels: Tensor, observed: Tensor, predictions: Tensor | None
) -> dict[str, Tensor]:
    """What the figures need of the samples with a wrong label, as sums over them.

    Args:
        clean: Moments of all samples with a right label.
        features: (B, d), in the moments' type.
        labels: True classes, (B,).
        observed: Other ones, (B,).
        predictions: (B,), or None.
    """
    means, seen = clean.means, clean.counts > 0
    known = seen[labels]
    away = features - means[labels]
    towards = means[observed] - means[labels]
    length = towards.norm(dim=1)
    along = (away * towards).sum(1)
    # Where the two means are one, or one is unknown, there is no way to go.
    way = known & seen[observed] & (length > 0)
    length = torch.where(way, length, 1.0)
    zero = features.new_zeros(())
    judged = zero if predictions is None else zero + len(labels)
    return {
        "distance": torch.where(known, away.norm(dim=1), 0.0).sum(),
        "known": known.sum().to(features.dtype),
        "bias": torch.where(way, along / length, 0.0).sum(),
        "share": torch.where(way, along / length.square(), 0.0).sum(),
        "ways": way.sum().to(features.dtype),
        "memorized": zero if predictions is None else zero + (predictions == observed).sum(),
        "recovered": zero if predictions is None else zero + (predictions == labels).sum(),
        "judged": judged,
    }


def memorization_dilation_figures(
    clean: ClassMoments,
    by_true: ClassMoments,
    by_observed: ClassMoments,
    test: ClassMoments | None,
    sums: dict[str, Tensor],
) -> dict[str, Tensor]:
    """The figures of :func:`memorization_figures`.

    Args:
        clean: Moments of training samples with a right label.
        by_true: Of those with a wrong one, by true classes.
        by_observed: Of the same, by observed classes.
        test: Of clean test samples; None leaves their figures out.
        sums: Of :func:`corrupted_sums`.
    """
    figures: dict[str, Tensor] = {}
    corrupted, right = by_true.counts.sum(), clean.counts.sum()
    if int(right + corrupted):
        centred, seen = centred_means(clean)
        separation = _mean_distance(centred)
        figures |= {
            "noise_rate": corrupted / (right + corrupted),
            "corrupted": corrupted,
            "separation": separation,
            "memorization_sum": sums["distance"] / seen.sum(),
        }
        if bool(sums["known"]):
            figures["memorization"] = sums["distance"] / sums["known"]
            figures["memorization_relative"] = figures["memorization"] / separation
        if bool(sums["ways"]):
            figures["corruption_bias"] = sums["bias"] / sums["ways"]
            figures["corruption_bias_relative"] = sums["share"] / sums["ways"]
        if bool(sums["judged"]):
            figures["memorized_fraction"] = sums["memorized"] / sums["judged"]
            figures["recovered_fraction"] = sums["recovered"] / sums["judged"]
        figures["nc1_train_true"] = _nc1(merge_moments(clean, by_true))
        figures["nc1_train_observed"] = _nc1(merge_moments(clean, by_observed))
        figures["nc1_train_clean"] = _nc1(clean)
    if test is not None and bool(test.counts.any()):
        centred, _ = centred_means(test)
        spread = (test.squares.sum() / test.counts.sum()).sqrt()
        figures["dilation"] = _nc1(test)
        figures["dilation_relative"] = spread / _mean_distance(centred)
    if not figures:
        raise ValueError("features: no sample yet; update() with training or test samples first")
    return figures


def _nc1(moments: ClassMoments) -> Tensor:
    centred, _ = centred_means(moments)
    return within_over_between(moments.scatter, moments.counts.sum(), centred) / len(centred)


def _mean_distance(means: Tensor) -> Tensor:
    """Mean distance between two of the rows."""
    exact = "donot_use_mm_for_euclid_dist"
    total = torch.stack([torch.cdist(rows, means, compute_mode=exact).sum() for rows in means.split(_ROWS)])
    return total.sum() / (len(means) * (len(means) - 1))
