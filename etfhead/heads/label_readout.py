"""Reading label sets out of a head's logits: decoding, scores, and the calibration they rest on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Self

import torch
from torch import Tensor, nn

from etfhead.heads.base import FeatureHead
from etfhead.heads.label_calibration import (
    ThresholdObjective,
    best_class_thresholds,
    best_threshold,
    count_features,
    count_inputs,
    fit_counts,
    fit_gaps,
    fit_offsets,
)
from etfhead.heads.label_decoding import centred_logits, decode_labels
from etfhead.heads.label_sets import LabelSets, multi_hot

__all__ = ["LabelReadout"]

Decoding = Literal["nearest", "nearest_cosine", "posterior", "threshold", "class_thresholds", "count", "topk"]

_FITTED = ("gaps", "offsets", "threshold", "class_thresholds", "count_weights")


class LabelReadout(FeatureHead):
    """Mixed into a head of class logits: decodes label sets, and keeps what that needs in buffers.

    Attributes:
        max_labels: Largest label set to answer; None for no limit.
        normalized_loss: Whether the head is trained with the loss divided by the number of labels.
        calibration_size: Samples that :meth:`calibrate` saw, () int64; 0 before.
    """

    max_labels: int | None
    normalized_loss: bool

    calibration_size: Tensor
    gaps: Tensor
    offsets: Tensor
    threshold: Tensor
    class_thresholds: Tensor
    count_weights: Tensor

    def _hold_calibration(self, like: Tensor) -> None:
        """Make room for the calibration, in the type and on the device of ``like``."""
        K = self.num_classes
        sizes = {
            "gaps": (K - 1,),
            "offsets": (K - 1,),
            "threshold": (),
            "class_thresholds": (K,),
            "count_weights": (1 + count_inputs(K),),
        }
        self.register_buffer("calibration_size", torch.zeros((), dtype=torch.int64, device=like.device))
        for name, size in sizes.items():
            self.register_buffer(name, like.new_zeros(size))

    def _assumed_gaps(self) -> Tensor:
        """Gaps of the prototypes of m = 1..K-1 labels before calibration, (K-1,), float32 or wider."""
        raise NotImplementedError

    @torch.no_grad()
    def reset_calibration(self) -> None:
        """Go back to the closed forms."""
        for name in ("calibration_size", *_FITTED):
            self.get_buffer(name).zero_()

    @property
    def calibrated(self) -> bool:
        """Whether :meth:`calibrate` has run."""
        return bool(self.calibration_size > 0)

    @torch.no_grad()
    def label_gaps(self) -> Tensor:
        """Difference of the logits in and out of the set at the prototypes of m = 1..K-1 labels, (K-1,)."""
        return self.gaps if self.calibrated else self._assumed_gaps()

    @torch.no_grad()
    def label_threshold(self) -> float:
        """The number that centred logits of labels exceed.

        Without calibration it is the middle between the largest logit of a wrong label and the smallest of a
        right one at the prototypes of 1 to ``max_labels`` (at most K/2) labels.
        """
        if self.calibrated:
            return self.threshold.item()
        K = self.num_classes
        most = max(1, min(self.max_labels or K, K // 2))
        share = torch.arange(1, most + 1, dtype=torch.float64, device="cpu") / K
        gaps = self.label_gaps()[:most].double().cpu()
        return 0.5 * ((gaps * (1 - share)).min() - (gaps * share).min()).item()

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

    @torch.no_grad()
    def calibrate(
        self,
        inputs: Tensor | Iterable[tuple[Tensor, LabelSets]],
        targets: LabelSets | None = None,
        *,
        from_features: bool = False,
        objective: ThresholdObjective = "micro_f1",
        min_samples: int = 10,
    ) -> Self:
        """Fit what decoding needs to data, best to samples that were not trained on, and keep it in buffers.

        In closed form or by one sort, the same on every run: the gaps of the prototypes
        (:func:`~etfhead.heads.label_calibration.fit_gaps`), their noise and how often m labels occur
        (:func:`~etfhead.heads.label_calibration.fit_offsets`), the best threshold, the best of each class,
        and a ridge regression of the number of labels (:func:`~etfhead.heads.label_calibration.fit_counts`).

        Args:
            inputs: Logits (N, K) with ``targets``, or batches of (logits, targets), such as
                ``((model(x), y) for x, y in loader)`` with the model in evaluation mode.
            targets: Label sets in any form of :func:`~etfhead.losses.pick_all_label`.
            from_features: Whether the inputs are features (N, d) instead of logits.
            objective: What the threshold maximises, ``"micro_f1"`` or ``"exact_match"``; class thresholds
                maximise the F1 of their class.
            min_samples: Samples that a number of labels needs for a gap of its own.

        Returns:
            LabelReadout: The head itself.

        Raises:
            ValueError: If sizes or values do not fit, there are no samples or no labels, or the logits do not
                tell labels from the others.
        """
        logits, hot = self._gathered(inputs, targets, from_features)
        scores = centred_logits(logits)
        gaps = fit_gaps(logits, hot, normalize=self.normalized_loss, min_samples=min_samples)
        threshold = best_threshold(scores, hot, objective)
        by_class = best_class_thresholds(scores, hot, threshold)
        weights = fit_counts(count_features(logits, gaps, threshold), hot.sum(1))
        self.gaps.copy_(gaps)
        self.offsets.copy_(fit_offsets(logits, hot, gaps))
        self.threshold.fill_(threshold)
        self.class_thresholds.copy_(by_class)
        self.count_weights.copy_(weights)
        self.calibration_size.fill_(len(hot))
        return self

    def _gathered(
        self,
        inputs: Tensor | Iterable[tuple[Tensor, LabelSets]],
        targets: LabelSets | None,
        from_features: bool,
    ) -> tuple[Tensor, Tensor]:
        """Logits and label sets of all batches, on the CPU."""
        batches: Iterable[tuple[Tensor, LabelSets]]
        if isinstance(inputs, Tensor) and targets is not None:
            batches = [(inputs, targets)]
        elif not isinstance(inputs, Tensor) and targets is None:
            batches = inputs
        else:
            raise ValueError(
                "calibrate: expected a tensor of inputs with targets, or batches of (inputs, targets) alone"
            )
        logits: list[Tensor] = []
        hot: list[Tensor] = []
        for batch, labels in batches:
            rows = self._class_last(batch, from_features)
            if rows.ndim != 2:
                raise ValueError(
                    f"inputs: expected one row per sample, (N, {rows.shape[-1]}), got {tuple(rows.shape)}"
                )
            logits.append(rows.cpu())
            hot.append(multi_hot(labels, self.num_classes, batch_size=len(rows), device="cpu"))
        if not sum(map(len, hot)):
            raise ValueError("calibrate: no samples")
        return torch.cat(logits), torch.cat(hot)

    def _class_last(self, inputs: Tensor, from_features: bool) -> Tensor:
        """Logits (..., K) of features, or of logits as this head gives them."""
        if from_features:
            with _evaluating(self.neck):
                return self._logits(self.features_behind_neck(inputs))
        axis = self.channel_dim
        if inputs.ndim <= max(axis, 0) or inputs.shape[axis] != self.num_classes:
            raise ValueError(
                f"inputs: expected logits of {self.num_classes} classes in dimension {axis}, got shape "
                f"{tuple(inputs.shape)}; features need from_features=True"
            )
        return inputs.movedim(axis, -1)

    def _class_first(self, values: Tensor) -> Tensor:
        return values.movedim(-1, self.channel_dim)

    def _require_calibration(self, what: str) -> None:
        if not self.calibrated:
            raise ValueError(f"{what} needs data: call calibrate(logits, targets) first")


@contextmanager
def _evaluating(neck: nn.Module | None) -> Iterator[None]:
    """A neck with its running statistics, whatever mode it is in."""
    if neck is None:
        yield
        return
    training = neck.training
    neck.eval()
    try:
        yield
    finally:
        neck.train(training)
