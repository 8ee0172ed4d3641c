"""What decoding of label sets needs from data: gaps, thresholds and the expected number of labels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from etfhead.frames.tagwise import filled_gaps
from etfhead.heads.label_search import best_counts, centred_logits

__all__ = [
    "ThresholdObjective",
    "best_class_thresholds",
    "best_threshold",
    "count_features",
    "count_inputs",
    "fit_counts",
    "fit_gaps",
    "fit_offsets",
]

ThresholdObjective = Literal["micro_f1", "exact_match"]

_TOP = 16  # largest logits that the count model reads
_RIDGE = 1e-3  # relative to the variance of a standardised input
_LEAST_SPREAD = 1e-6  # an input that varies less than this says nothing


def fit_gaps(logits: Tensor, hot: Tensor, *, normalize: bool = False, min_samples: int = 1) -> Tensor:
    r"""Gaps of the prototypes by least squares, for every number of labels.

    Over the samples of m labels, :math:`\sum_i |z_i - \delta_m (1_{S_i} - m/K)|^2` with centred logits z is
    least at the mean difference between the logits in and out of the set. Numbers of labels that occur fewer
    than ``min_samples`` times (where any occurs as often), or whose gap is not positive, take the closed form
    through their neighbours (:func:`~etfhead.frames.tagwise.filled_gaps`).

    Args:
        logits: (N, K).
        hot: Label sets (N, K), bool; empty and full ones say nothing here.
        normalize: Whether the loss was divided by the number of labels; for the closed form.
        min_samples: Samples that a number of labels needs.

    Returns:
        Tensor: delta_m for m = 1..K-1, float64, on the CPU.

    Raises:
        ValueError: If no number of labels has a positive gap.

    >>> logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, 3.0]])
    >>> fit_gaps(logits, logits > 0).tolist()
    [4.0, 3.0]
    """
    K = hot.shape[1]
    centred = centred_logits(logits.double())
    m = hot.sum(1)
    inside = centred.where(hot, 0.0).sum(1)
    # Centred logits sum to zero: the mean inside less the mean outside.
    gaps = inside * K / (m * (K - m)).clamp(min=1)
    number = torch.bincount(m, minlength=K + 1).cpu()
    total = torch.zeros(K + 1, dtype=torch.float64, device=gaps.device).index_add_(0, m, gaps).cpu()
    means = total / number.clamp(min=1)
    sizes = [size for size in range(1, K) if number[size] and means[size] > 0]
    frequent = [size for size in sizes if number[size] >= min_samples]
    known = {size: means[size].item() for size in frequent or sizes}
    if not known:
        raise ValueError(
            "targets: for no number of labels (from 1 to K - 1) are the labels' logits above the others on "
            "average; train the model first, and check that targets and logits are of the same samples"
        )
    return filled_gaps(K, known, normalize=normalize)


def fit_offsets(logits: Tensor, hot: Tensor, gaps: Tensor) -> Tensor:
    r"""What turns the nearest prototype into the most probable label set, for every number of labels.

    With Gaussian noise of one variance v around the prototypes, and sets of m labels as likely as each other,
    the most probable set has the least :math:`|z - z_S|^2 - 2 v \log(P(m) / \binom{K}{m})`. Both v and P(m)
    come from the data; a number of labels that never occurs counts as half a sample.

    Args:
        logits: (N, K).
        hot: Label sets (N, K), bool; empty and full ones are left out.
        gaps: Gaps of the prototypes (K-1,).

    Returns:
        Tensor: 2 v log(P(m) / binom(K, m)) for m = 1..K-1, float64, on the CPU.

    >>> logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, 3.0]])
    >>> fit_offsets(logits, logits > 0, torch.tensor([4.0, 3.0])).abs().max().item() < 1e-9
    True
    """
    K = hot.shape[1]
    proper = hot.any(1) & ~hot.all(1)
    logits, hot = logits[proper], hot[proper]
    m = hot.sum(1)
    prototypes = gaps.to(hot.device).double()[m - 1, None] * (hot.double() - m[:, None] / K)
    # Centred logits have K - 1 free directions.
    variance = (centred_logits(logits.double()) - prototypes).square().sum(1).mean() / (K - 1)
    number = torch.bincount(m, minlength=K)[1:K].double().clamp(min=0.5).cpu()
    size = torch.arange(1, K, dtype=torch.float64, device="cpu")
    log_sets = math.lgamma(K + 1) - (size + 1).lgamma() - (K - size + 1).lgamma()
    return 2.0 * variance.cpu() * ((number / number.sum()).log() - log_sets)


def best_threshold(scores: Tensor, hot: Tensor, objective: ThresholdObjective = "micro_f1") -> float:
    """The threshold with the best score on data, from a sort instead of a grid.

    The answer lies in the middle of its best interval, and label sets are ``scores > threshold``.

    Args:
        scores: Centred logits (N, K).
        hot: Label sets (N, K), bool.
        objective: ``"micro_f1"``, F1 over all pairs of sample and label, or ``"exact_match"``, the share of
            samples whose whole label set is right.

    Raises:
        ValueError: If the objective is unknown or no sample has a label.

    >>> best_threshold(torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([[True, False], [False, True]]))
    1.5
    """
    if not hot.any():
        raise ValueError("targets: no sample has a label; a threshold cannot be chosen")
    if objective == "micro_f1":
        return _f1_thresholds(scores.reshape(-1, 1), hot.reshape(-1, 1)).item()
    if objective != "exact_match":
        raise ValueError(f"objective={objective!r}: expected 'micro_f1' or 'exact_match'")
    # A sample's set is exact from its largest other score on, below its smallest label's.
    start = scores.masked_fill(hot, -torch.inf).amax(1)
    stop = scores.masked_fill(~hot, torch.inf).amin(1)
    possible = start < stop
    if not possible.any():
        return _f1_thresholds(scores.reshape(-1, 1), hot.reshape(-1, 1)).item()
    start, stop = start[possible].sort().values, stop[possible].sort().values
    # Full sets are exact from -inf on; one step below all scores is as good.
    start = start.maximum(torch.nextafter(scores.min(), scores.new_tensor(-torch.inf)))
    right = torch.arange(1, len(start) + 1, device=start.device) - torch.searchsorted(stop, start, right=True)
    low = start[right.argmax()]
    events = torch.cat([start, stop])
    return _between(low, events.masked_fill(events <= low, torch.inf).min()).item()


def best_class_thresholds(scores: Tensor, hot: Tensor, default: float) -> Tensor:
    """For each class the threshold of the best F1 on data, (K,); ``default`` for a class that never occurs.

    >>> scores = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    >>> best_class_thresholds(scores, torch.tensor([[True, False], [False, False]]), 0.5).tolist()
    [1.5, 0.5]
    """
    return _f1_thresholds(scores, hot).masked_fill(~hot.any(0), default)


def _f1_thresholds(scores: Tensor, hot: Tensor) -> Tensor:
    """Threshold of the best F1 = 2 TP / (predicted + positive) of each column, in O(N log N)."""
    ordered, order = scores.sort(dim=0, descending=True)
    hits = hot.gather(0, order).cumsum(0)
    predicted = torch.arange(1, len(scores) + 1, device=scores.device).unsqueeze(1)
    f1 = 2.0 * hits / (predicted + hits[-1:]).double()
    # No threshold separates equal scores.
    below = torch.cat([ordered[1:], ordered.new_full((1, ordered.shape[1]), -torch.inf)])
    best = f1.masked_fill(ordered == below, -1.0).argmax(0, keepdim=True)
    return _between(below.gather(0, best), ordered.gather(0, best))[0]


def _between(low: Tensor, high: Tensor) -> Tensor:
    """A number t with low <= t < high: the middle, or next to the finite one."""
    low = low.where(low.isfinite(), torch.nextafter(high, low))
    middle = low + 0.5 * (high - low)
    middle = middle.where(high.isfinite(), low)
    return middle.where((low <= middle) & (middle < high), low)


def count_features(logits: Tensor, gaps: Tensor, threshold: float | Tensor) -> Tensor:
    r"""What the number of labels is read from.

    The perplexity of the softmax (where features have collapsed, the softmax of the pick-all-label loss is
    nearly uniform on the labels), the soft count :math:`\sum_k \sigma(z_k - t)` of centred logits above the
    threshold, the number of labels of the nearest prototype, and the largest centred logits.

    Args:
        logits: (..., K).
        gaps: Gaps of the prototypes, (K-1,).
        threshold: t, for centred logits.

    Returns:
        Tensor: (..., 3 + min(K, 16)), float64; float32 on Apple's GPUs.

    >>> logits = torch.tensor([9.0, 9.0, -90.0, -90.0])
    >>> [round(x) for x in count_features(logits, torch.full((3,), 99.0), 0.0).tolist()]
    [2, 2, 2, 50, 50, -50, -50]
    """
    centred = centred_logits(logits)
    centred = centred if centred.device.type == "mps" else centred.double()
    ordered = centred.sort(dim=-1, descending=True).values
    log_p = ordered.log_softmax(-1)
    perplexity = (-(log_p.exp() * log_p).sum(-1)).exp()
    above = (ordered - threshold).sigmoid().sum(-1)
    nearest = best_counts(ordered, gaps.to(ordered), ordered.shape[-1]).to(ordered)
    counts = torch.stack([perplexity, above, nearest], dim=-1)
    return torch.cat([counts, ordered[..., : count_inputs(ordered.shape[-1]) - 3]], dim=-1)


def count_inputs(num_classes: int) -> int:
    """How many numbers :func:`count_features` gives."""
    return 3 + min(_TOP, num_classes)


def fit_counts(inputs: Tensor, counts: Tensor) -> Tensor:
    """Ridge regression of the number of labels on :func:`count_features`, in closed form.

    Args:
        inputs: (N, P), float64.
        counts: Number of labels (N,).

    Returns:
        Tensor: Intercept and weights, (1 + P,), float64.

    >>> inputs = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    >>> [round(w, 2) for w in fit_counts(inputs, torch.tensor([3, 5, 7])).tolist()]
    [1.0, 2.0]
    """
    targets = counts.to(inputs)
    mean, centre = inputs.mean(0), targets.mean()
    spread = inputs.std(0, correction=0)
    scale = spread.reciprocal().where(spread > _LEAST_SPREAD, 0.0)
    x = (inputs - mean) * scale
    gram = x.T @ x / len(x)
    gram.diagonal().add_(_RIDGE)
    weights = torch.linalg.solve(gram, x.T @ (targets - centre) / len(x)) * scale
    return torch.cat([(centre - mean @ weights)[None], weights])
