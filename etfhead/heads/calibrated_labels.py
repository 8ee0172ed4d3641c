"""What a head remembers to read label sets out of its logits: gaps, thresholds and counts, fitted to data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

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
from etfhead.heads.label_search import centred_logits
from etfhead.heads.label_sets import LabelSets, multi_hot

__all__ = ["CalibratedLabels"]

_FITTED = ("gaps", "offsets", "threshold", "class_thresholds", "count_weights")


class CalibratedLabels(FeatureHead):
    """Mixed into a head of class logits: keeps what decoding of label sets needs in buffers, and fits it.

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
            CalibratedLabels: The head itself.

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
