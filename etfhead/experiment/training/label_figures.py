"""From logits to label sets and scores; what label sets rest on is fitted to the validation split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from etfhead.heads.label_calibration import (
    ThresholdObjective,
    best_class_thresholds,
    best_threshold,
    count_features,
    fit_counts,
    fit_gaps,
    fit_offsets,
)
from etfhead.heads.label_decoding import decode_labels
from etfhead.heads.label_search import centred_logits, top_labels

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Arm

__all__ = ["Readout", "decide", "decodings", "fit_readout", "label_figures", "label_scores"]

# Tensors and plain values, for a checkpoint: threshold, class_thresholds, most_labels, gaps, offsets,
# count_weights. Those of the geometry are None where the loss is not pick-all-label or the logits do not tell
# labels from others.
Readout = dict[str, Any]

_FROM_SIGMOID = 15.0  # float32 tells sigmoids apart up to here
_MOST_SIZES = 6  # numbers of labels with an exact match of their own


def label_scores(arm: Arm, logits: Tensor) -> Tensor:
    """What labels are ranked and thresholded by, (N, K): logits, centred where the loss sees differences.

    The pick-all-label loss leaves the mean of a sample's logits open, so they do not compare between samples.
    """
    return centred_logits(logits) if arm.loss == "pick_all_label" else logits.float()


def fit_readout(arm: Arm, logits: Tensor, hot: Tensor, objective: ThresholdObjective) -> Readout:
    """Everything that turns logits into label sets.

    No decision names more labels than any image of the split has: of the 2^K sets the large ones are the
    most, and nearest prototypes would find one of them in every noise.

    Args:
        arm: Its loss says what the logits mean.
        logits: (N, K), of the validation split.
        hot: Label sets (N, K), bool.
        objective: What the one threshold maximises; class thresholds maximise the F1 of their class.
    """
    scores = label_scores(arm, logits)
    threshold = best_threshold(scores, hot, objective)
    readout: Readout = dict.fromkeys(("gaps", "offsets", "count_weights"))
    readout |= {"threshold": threshold, "class_thresholds": best_class_thresholds(scores, hot, threshold)}
    readout["most_labels"] = int(hot.sum(1).max())
    if arm.loss == "pick_all_label":
        try:
            gaps = fit_gaps(logits, hot, normalize=bool(arm.pal_normalize), min_samples=10)
        except ValueError:  # an untrained network's logits, which may be the wrong way round
            return readout
        features = count_features(logits, gaps, threshold)
        weights = fit_counts(features, hot.sum(1))
        readout |= {"gaps": gaps, "offsets": fit_offsets(logits, hot, gaps), "count_weights": weights}
    return readout


def decodings(arm: Arm) -> tuple[str, ...]:
    """The ways in which an arm's label sets can be decided, its own among them."""
    geometry = ("nearest", "nearest_cosine", "posterior") if arm.loss == "pick_all_label" else ()
    return ("threshold", "class_thresholds", *geometry)


def decide(arm: Arm, logits: Tensor, readout: Readout, how: str) -> Tensor:
    """Label sets (N, K), bool, by one of :func:`decodings`.

    Without gaps, by nature or because nothing could be fitted, the nearest prototype is the one by angle.
    """
    most = readout["most_labels"]
    if how in ("threshold", "class_thresholds"):
        margin = label_scores(arm, logits) - readout[how]
        over = margin > 0
        return top_labels(margin, over.sum(1).clamp(max=most))
    if how == "nearest_cosine" or readout["gaps"] is None:
        return decode_labels(logits, "nearest_cosine", max_labels=most)
    offsets = readout["offsets"] if how == "posterior" else None
    return decode_labels(logits, gaps=readout["gaps"], offsets=offsets, max_labels=most)


def label_figures(
    arm: Arm, logits: Tensor, hot: Tensor, readout: Readout, class_counts: Sequence[int] | None
) -> dict[str, float]:
    """Scores of an arm on a split, in percent, and its loss.

    Args:
        arm: Its ``decode`` is how it decides; scores of decisions belong to that.
        logits: (N, K).
        hot: Label sets (N, K), bool.
        readout: From :func:`fit_readout` on the validation split.
        class_counts: Training images with each label, for head, medium and tail labels; None without.

    Returns:
        dict: ``loss``, the binary cross-entropy of the probabilities that ``map`` ranks by (nats a label, the
        same for every training loss); the figures of :class:`~etfhead.metrics.label_scores.\
MultiLabelScores`; ``exact_match_by_<decoding>`` for each of :func:`decodings`; ``exact_match_m<m>`` of the
        samples of m labels; ``map_marginal`` of pick-all-label arms, ranked by the probabilities
        E[m | x] softmax(z).
    """
    how = arm.decode or "threshold"
    sets = {name: decide(arm, logits, readout, name) for name in decodings(arm)}
    margin = label_scores(arm, logits).double() - readout["threshold"]
    loss = nn.functional.binary_cross_entropy_with_logits(margin, hot.double())
    # A common factor keeps the ranking and keeps sigmoids apart.
    shrink = min(1.0, _FROM_SIGMOID / max(margin.abs().max().item(), 1.0))
    figures = {"loss": loss.item(), **_scores((shrink * margin).sigmoid(), sets[how], hot, class_counts)}
    right = {name: (named == hot).all(1) for name, named in sets.items()}
    figures |= {f"exact_match_by_{name}": _percent(value) for name, value in right.items()}
    figures["exact_match"] = _percent(right[how])  # in float64: a tie between arms stays one
    sizes = hot.sum(1)
    for size in sizes.unique().tolist()[:_MOST_SIZES]:
        figures[f"exact_match_m{size}"] = _percent(right[how][sizes == size])
    if readout["count_weights"] is not None:
        marginal = _marginals(logits, readout)
        figures["map_marginal"] = _scores(marginal / marginal.max(), sets[how], hot, None)["map"]
    return figures


def _scores(
    probabilities: Tensor, named: Tensor, hot: Tensor, class_counts: Sequence[int] | None
) -> dict[str, float]:
    from etfhead.metrics.label_scores import MultiLabelScores

    # Every process holds the whole split.
    metric = MultiLabelScores(hot.shape[1], class_counts=_unequal(class_counts), sync_on_compute=False)
    metric.update(probabilities, named, hot)
    found: Mapping[str, Tensor] = metric.compute()
    values = {name: 100.0 * value.item() for name, value in found.items() if value.is_floating_point()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _unequal(class_counts: Sequence[int] | None) -> Sequence[int] | None:
    """Counts that make some labels head and others tail; None where all are equally frequent, or too few."""
    return class_counts if class_counts and len(class_counts) > 2 and len(set(class_counts)) > 1 else None


def _marginals(logits: Tensor, readout: Readout) -> Tensor:
    features = count_features(logits, readout["gaps"], readout["threshold"])
    weights = readout["count_weights"]
    counts = (features @ weights[1:] + weights[0]).clamp(0, logits.shape[1])
    return counts[:, None] * logits.double().softmax(1)


def _percent(right: Tensor) -> float:
    return 100.0 * right.double().mean().item()
