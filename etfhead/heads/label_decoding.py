r"""Label sets from logits: nearest prototypes of all sets at once, thresholds, and fixed counts.

Where features of several labels are scaled sums of the single ones on a simplex, the prototype of the set S
of m labels has centred logits delta_m (1_S - m/K) (:mod:`etfhead.frames.tagwise`). Centred logits are the
part of the features that a simplex sees, up to one factor, so the nearest prototype in the one space is
nearest in the other. With Z_m the sum of the m largest centred logits, the nearest set of m labels is at

.. math:: |z|^2 - 2 \delta_m Z_m + \delta_m^2\, m (K - m) / K ,

and one sort of the logits finds the nearest of all 2^K - 2 prototypes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from etfhead.heads.label_search import best_counts, centred_logits, descending, top_labels, wide_type

__all__ = ["DecodingMethod", "decode_labels"]

DecodingMethod = Literal["nearest", "nearest_cosine", "threshold", "topk"]


@torch.no_grad()
def decode_labels(
    logits: Tensor,
    method: DecodingMethod = "nearest",
    *,
    gaps: Tensor | None = None,
    offsets: Tensor | None = None,
    threshold: float | Tensor | None = None,
    k: int | Tensor | None = None,
    max_labels: int | None = None,
) -> Tensor:
    """The label set of each sample, as the pick-all-label loss leaves it in the logits.

    ``"nearest"`` is the one-nearest-neighbour rule over the prototypes of all label sets of 1 to K - 1 labels
    (Li et al., ICML 2024, arXiv 2310.15903), ``"nearest_cosine"`` the same by angle, which needs no gaps;
    both are exact, in O(K log K), and never answer an empty set. ``"threshold"`` takes the labels whose
    centred logit exceeds a number, possibly none, ``"topk"`` the k largest. Equal logits go to the lower
    class first.

    Args:
        logits: (..., K), any floating type, finite.
        method: ``"nearest"``, ``"nearest_cosine"``, ``"threshold"`` or ``"topk"``.
        gaps: For ``"nearest"``: difference delta_m between the logits in and out of the set at the prototypes
            of m = 1, 2, ... labels, (M,) with M up to K - 1; sets of more than M labels are left out.
        offsets: For ``"nearest"``: what a set of m labels is nearer than its squared distance says, (M,).
            2 v log P(S), with v the variance of a logit around its prototype, makes the answer the most
            probable set instead of the nearest.
        threshold: For ``"threshold"``: one number, or one per class (K,). None is 0, the mean of the logits.
        k: For ``"topk"``: from 0 to K; one number, or integers (...) for each sample.
        max_labels: Largest set to answer; None for no limit. Not for ``"topk"``.

    Returns:
        Tensor: Multi-hot (..., K), bool.

    Raises:
        ValueError: If an argument does not fit or belongs to another method, or a logit is not finite.

    >>> logits = torch.tensor([[5.0, 4.5, -1.0, -1.2], [6.0, 0.1, -0.2, 0.0]])
    >>> decode_labels(logits, gaps=torch.tensor([6.0, 5.5, 5.2])).int().tolist()
    [[1, 1, 0, 0], [1, 0, 0, 0]]
    >>> decode_labels(logits, "topk", k=1).int().tolist()
    [[1, 0, 0, 0], [1, 0, 0, 0]]
    """
    given = {"gaps": gaps, "offsets": offsets, "threshold": threshold, "k": k}
    own: dict[str, tuple[str, ...]] = {
        "nearest": ("gaps", "offsets"),
        "nearest_cosine": (),
        "threshold": ("threshold",),
        "topk": ("k",),
    }
    if method not in own:
        raise ValueError(f"method={method!r}: expected one of {', '.join(map(repr, own))}")
    for name, value in given.items():
        if value is not None and name not in own[method]:
            raise ValueError(f"{name}: method={method!r} does not use it; leave it out")
    centred = centred_logits(logits)
    if method == "topk":
        if max_labels is not None:
            raise ValueError("max_labels: method='topk' does not use it; k is the number of labels")
        return top_labels(centred, _checked_k(k, centred))
    limit = _checked_limit(max_labels, centred.shape[-1])
    if method == "threshold":
        over = centred > _checked_threshold(threshold, centred)
        if limit < centred.shape[-1] and bool((over.sum(-1) > limit).any()):
            # A class threshold may pass over larger logits: the best are those farthest above it.
            margin = centred.where(over, -torch.inf)
            if isinstance(threshold, Tensor):
                margin = margin - threshold.to(margin)
            over = top_labels(margin, over.sum(-1).clamp(max=limit))
        return over
    ordered = descending(centred, limit)
    known = _checked_gaps(gaps, centred) if method == "nearest" else None
    counts = best_counts(ordered, known, centred.shape[-1], _checked_offsets(offsets, known))
    return top_labels(centred, counts, ordered)


def _checked_limit(max_labels: int | None, K: int) -> int:
    if max_labels is None:
        return K
    if isinstance(max_labels, bool) or not isinstance(max_labels, int) or not 1 <= max_labels <= K:
        raise ValueError(f"max_labels={max_labels!r}: expected an integer from 1 to num_classes={K}, or None")
    return max_labels


def _checked_gaps(gaps: Tensor | None, logits: Tensor) -> Tensor:
    K = logits.shape[-1]
    if gaps is None:
        raise ValueError(
            "gaps: method='nearest' needs the gaps of the prototypes (a head's label_gaps(), or "
            "etfhead.frames.tagwise.tagwise_gaps); method='nearest_cosine' needs none"
        )
    if not isinstance(gaps, Tensor) or gaps.ndim != 1 or not 1 <= len(gaps) < K:
        raise ValueError(f"gaps: expected a tensor of 1 to {K - 1} numbers, for m = 1, 2, ..., got {gaps!r}")
    gaps = gaps.to(logits.device, wide_type(logits))
    if not (gaps.isfinite() & (gaps > 0)).all():
        raise ValueError(f"gaps: expected positive numbers, got {gaps.tolist()}")
    return gaps


def _checked_offsets(offsets: Tensor | None, gaps: Tensor | None) -> Tensor | None:
    if offsets is None or gaps is None:
        return None
    if not isinstance(offsets, Tensor) or offsets.shape != gaps.shape or not offsets.isfinite().all():
        raise ValueError(f"offsets: expected {len(gaps)} finite numbers, one per gap, got {offsets!r}")
    return offsets.to(gaps)


def _checked_threshold(threshold: float | Tensor | None, logits: Tensor) -> float | Tensor:
    if not isinstance(threshold, Tensor):
        return 0.0 if threshold is None else float(threshold)
    if threshold.ndim and threshold.shape != logits.shape[-1:]:
        raise ValueError(
            f"threshold: expected one number, or {logits.shape[-1]}, got shape {tuple(threshold.shape)}"
        )
    return threshold.to(logits)


def _checked_k(k: int | Tensor | None, logits: Tensor) -> int | Tensor:
    K = logits.shape[-1]
    if k is None:
        raise ValueError("k: method='topk' needs the number of labels")
    if isinstance(k, Tensor):
        valid = not (k.is_floating_point() or k.dtype == torch.bool) and k.shape == logits.shape[:-1]
        valid = valid and (not k.numel() or 0 <= int(k.min()) <= int(k.max()) <= K)
    else:
        valid = isinstance(k, int) and not isinstance(k, bool) and 0 <= k <= K
    if not valid:
        raise ValueError(
            f"k={k!r}: expected an integer from 0 to num_classes={K}, or such integers, one per sample"
        )
    return k
