"""Reading label sets out of a head's logits: decoding, and scores that compare between samples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from etfhead.heads.calibrated_labels import CalibratedLabels
from etfhead.heads.label_calibration import count_features
from etfhead.heads.label_decoding import decode_labels
from etfhead.heads.label_search import centred_logits

__all__ = ["LabelReadout"]

Decoding = Literal["nearest", "nearest_cosine", "posterior", "threshold", "class_thresholds", "count", "topk"]


class LabelReadout(CalibratedLabels):
    """Mixed into a head of class logits: decodes label sets with what :meth:`calibrate` fitted."""

    @torch.no_grad()
    def expected_counts(self, inputs: Tensor, *, from_features: bool = False) -> Tensor:
        """Expected number of labels E[m | x], from 0 to the largest set.

        Without calibration it is the perplexity of the softmax, which is the number of labels where features
        have collapsed, and never below 1.

        Args:
            inputs: Logits (..., K); for the convolutional twin (B, K) or (B, K, H, W).
            from_features: Whether ``inputs`` are features instead.

        Returns:
            Tensor: (...), float32 or wider.
        """
        logits = self._class_last(inputs, from_features)
        known = count_features(logits, self.label_gaps(), self.label_threshold())
        counts, least = known[..., 0], 1
        if self.calibrated:
            weights = self.count_weights.to(known)
            counts, least = known @ weights[1:] + weights[0], 0
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return counts.clamp(least, self.max_labels or self.num_classes).to(dtype)

    @torch.no_grad()
    def decode(
        self,
        inputs: Tensor,
        method: Decoding = "nearest",
        *,
        from_features: bool = False,
        threshold: float | None = None,
        k: int | None = None,
        max_labels: int | None = None,
    ) -> Tensor:
        """The label set of each sample; :func:`~etfhead.heads.label_decoding.decode_labels` has the details.

        Args:
            inputs: Logits (..., K); for the convolutional twin (B, K) or (B, K, H, W).
            method: ``"nearest"`` (prototype of all label sets), ``"nearest_cosine"`` (the same by angle, no
                gaps), ``"posterior"`` (the most probable set, which also knows noise and how often m labels
                occur; needs calibration), ``"threshold"`` (one for all classes),
                ``"class_thresholds"`` (needs calibration), ``"count"`` (the round(E[m | x]) largest) or
                ``"topk"``.
            from_features: Whether ``inputs`` are features (..., d), or (B, d, H, W), instead of logits. The
                neck then uses its running statistics.
            threshold: For ``"threshold"``: a number in the place of :meth:`label_threshold`.
            k: For ``"topk"``: the number of labels.
            max_labels: Largest set to answer; None for the head's own limit. Not for ``"topk"``.

        Returns:
            Tensor: Multi-hot, bool, of the logits' shape; :func:`~etfhead.heads.label_lists` lists it.

        Raises:
            ValueError: If an argument does not fit or belongs to another method, a logit is not finite, or
                a method needs :meth:`calibrate` first.
        """
        if threshold is not None and method != "threshold":
            raise ValueError(f"threshold: method={method!r} does not use it; leave it out")
        if k is not None and method != "topk":
            raise ValueError(f"k: method={method!r} does not use it; leave it out")
        logits = self._class_last(inputs, from_features)
        limit = self.max_labels if max_labels is None and method != "topk" else max_labels
        if method == "count":
            counts = self.expected_counts(self._class_first(logits)).round().long()
            hot = decode_labels(logits, "topk", k=counts.clamp(max=limit or self.num_classes))
        elif method == "threshold":
            bound = self.label_threshold() if threshold is None else threshold
            hot = decode_labels(logits, "threshold", threshold=bound, max_labels=limit)
        elif method == "class_thresholds":
            self._require_calibration("method='class_thresholds'")
            hot = decode_labels(logits, "threshold", threshold=self.class_thresholds, max_labels=limit)
        elif method == "posterior":
            self._require_calibration("method='posterior'")
            hot = decode_labels(logits, gaps=self.gaps, offsets=self.offsets, max_labels=limit)
        else:
            gaps = self.label_gaps() if method == "nearest" else None
            hot = decode_labels(logits, method, gaps=gaps, k=k, max_labels=limit)
        return self._class_first(hot)

    @torch.no_grad()
    def probabilities(
        self,
        inputs: Tensor,
        method: Literal["sigmoid", "marginal"] = "sigmoid",
        *,
        from_features: bool = False,
    ) -> Tensor:
        r"""Scores in [0, 1] of each label that are comparable between samples, as average precision needs.

        A softmax over labels is not: two labels share what one has alone. ``"sigmoid"`` is
        sigmoid(centred logit - threshold), above 1/2 where the label would be decoded by the threshold.
        ``"marginal"`` is E[m | x] softmax(z)_k clipped to 1: the probability of label k that the minimiser of
        the pick-all-label loss tells, with ties at 1.

        Args:
            inputs: Logits (..., K); for the convolutional twin (B, K) or (B, K, H, W).
            method: ``"sigmoid"`` or ``"marginal"``.
            from_features: Whether ``inputs`` are features instead.

        Returns:
            Tensor: Of the logits' shape, float32 or wider.
        """
        if method not in ("sigmoid", "marginal"):
            raise ValueError(f"method={method!r}: expected 'sigmoid' or 'marginal'")
        logits = self._class_last(inputs, from_features)
        if method == "sigmoid":
            return self._class_first((centred_logits(logits) - self.label_threshold()).sigmoid())
        counts = self.expected_counts(self._class_first(logits)).unsqueeze(-1)
        return self._class_first((counts * logits.softmax(-1, dtype=counts.dtype)).clamp(max=1.0))
