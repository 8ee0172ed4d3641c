"""How good predicted label sets and rankings are: mAP, class-wise and overall F1, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from etfhead.frames.base import checked_size
from etfhead.metrics._plot import Axis
from etfhead.metrics.average_precision import average_precision
from etfhead.metrics.multilabel_counts import (
    MultiLabelCounts,
    checked_hot,
    checked_probabilities,
    count_decisions,
    label_groups,
)

__all__ = ["MultiLabelScores"]


class MultiLabelScores(Metric):
    r"""The usual multi-label scores, each under a name that says which convention it is.

    With precision P_k, recall R_k and F_k = 2 P_k R_k / (P_k + R_k) of label k, means over the labels that
    have a positive in the data, and tp, fp, fn summed over all labels:

    .. math:: \mathrm{CP} = \overline{P_k}, \quad \mathrm{CR} = \overline{R_k}, \quad
              \mathrm{CF1} = \frac{2\,\mathrm{CP}\,\mathrm{CR}}{\mathrm{CP} + \mathrm{CR}}, \quad
              \mathrm{OP} = \tfrac{tp}{tp + fp}, \quad \mathrm{OR} = \tfrac{tp}{tp + fn}

    :meth:`compute` returns, as fractions: ``map`` (mean over labels of the non-interpolated average
    precision), ``cp``, ``cr``, ``cf1`` (of the means, as in ML-GCN, arXiv 1904.03582), ``cf1_mean`` (the mean
    of F_k, as in ASL, arXiv 2009.14119, torchmetrics and scikit-learn; the two differ), ``op``, ``or``,
    ``of1``, ``exact_match`` (subset accuracy), ``jaccard`` (mean over samples of the intersection over union;
    1 if both sets are empty), ``hamming`` (share of wrong decisions), and the number
    ``labels_without_positive`` that the means leave out. A label never predicted has precision 0. With
    ``class_counts`` also ``map_head``, ``f1_head`` (mean of F_k) and the same of ``medium`` and ``tail``.

    Probabilities (float32) and targets are kept until :meth:`compute`, 5 bytes a sample and label.

    Args:
        num_labels: K.
        class_counts: Training images of each label (K,).
        thresholds: ``(low, high)`` for tail and head, None for thirds: see
            :func:`~etfhead.metrics.multilabel_counts.label_groups`.
        **kwargs: Of :class:`torchmetrics.Metric`.

    >>> metric = MultiLabelScores(num_labels=2)
    >>> metric.update(torch.tensor([[0.9, 0.2]]), torch.tensor([[1, 0]]), torch.tensor([[1.0, 1.0]]))
    >>> scores = metric.compute()
    >>> scores["cf1"].item(), scores["cf1_mean"].item(), round(scores["of1"].item(), 4)
    (0.5, 0.5, 0.6667)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor
    exact: Tensor
    jaccard: Tensor
    samples: Tensor
    probabilities: list[Tensor]
    targets: list[Tensor]

    def __init__(
        self,
        num_labels: int,
        *,
        class_counts: Sequence[int] | None = None,
        thresholds: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_labels = checked_size("num_labels", num_labels, 1)
        self.groups: dict[str, Tensor] = {}
        if class_counts is not None:
            if len(class_counts) != num_labels:
                raise ValueError(
                    f"class_counts: expected {num_labels} numbers, one a label, got {len(class_counts)}"
                )
            self.groups = label_groups(class_counts, thresholds)
        for name in MultiLabelCounts._fields:
            size = (num_labels,) if "positives" in name or "negatives" in name else ()
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, predictions: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            probabilities: (B, K), in [0, 1].
            predictions: (B, K), 0 or 1 (any type), the labels decided on.
            target: (B, K), 0 or 1 (any type).

        Raises:
            ValueError: If a shape does not fit, a probability leaves [0, 1], or a row is not multi-hot.
        """
        probabilities = checked_probabilities(probabilities, self.num_labels)
        shape = len(probabilities), self.num_labels
        truth = checked_hot("target", target, *shape).to(probabilities.device)
        named = checked_hot("predictions", predictions, *shape).to(probabilities.device)
        counts = count_decisions(named, truth)
        for name, value in counts._asdict().items():
            setattr(self, name, getattr(self, name) + value)
        self.probabilities.append(probabilities)
        self.targets.append(truth.to(torch.uint8))

    def compute(self) -> dict[str, Tensor]:
        """The scores, over all processes.

        Raises:
            ValueError: If no sample has been added.
        """
        if not int(self.samples):
            raise ValueError("no sample to score; update() first")
        labels = self._labels()
        seen = labels["positives"] > 0
        cp, cr = labels["precision"][seen].mean(), labels["recall"][seen].mean()
        tp, fp, fn = self.true_positives.sum(), self.false_positives.sum(), self.false_negatives.sum()
        op, recalled = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
        scores = {
            "map": labels["average_precision"][seen].mean(),
            "cp": cp,
            "cr": cr,
            "cf1": _ratio(2 * cp * cr, cp + cr),
            "cf1_mean": labels["f1"][seen].mean(),
            "op": op,
            "or": recalled,
            "of1": _ratio(2 * op * recalled, op + recalled),
            "exact_match": self.exact / self.samples,
            "jaccard": self._counts().mean_jaccard,
            "hamming": (fp + fn) / (self.samples * self.num_labels),
            "labels_without_positive": (~seen).sum(),
        }
        for name, members in self.groups.items():
            inside = torch.zeros_like(seen)
            inside[members.to(seen.device)] = True
            scores[f"map_{name}"] = labels["average_precision"][inside & seen].mean()
            scores[f"f1_{name}"] = labels["f1"][inside & seen].mean()
        return scores

    def label_values(self) -> dict[str, Tensor]:
        """What the means hide, (K,) each, of this process' samples.

        ``positives``, ``precision``, ``recall``, ``f1`` and ``average_precision``, NaN where a label has no
        positive.
        """
        values = self._labels()
        missing = values["positives"] == 0
        return {
            name: value if name == "positives" else value.masked_fill(missing, torch.nan)
            for name, value in values.items()
        }

    def plot(
        self, val: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]] | None = None, ax: Axis | None = None
    ) -> Any:
        """Draw the scores of one result, or of several against their number.

        Args:
            val: What :meth:`compute` returned, or a list of that; None computes.
            ax: Matplotlib axis to draw in; None makes a figure.

        Returns:
            Figure and axis.
        """
        given = self.compute() if val is None else val
        series = [given] if isinstance(given, Mapping) else list(given)
        shown = [{k: v for k, v in row.items() if k != "labels_without_positive"} for row in series]
        return self._plot(shown[0] if isinstance(given, Mapping) else shown, ax)

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None
    ) -> None:
        """Sum and concatenate over processes; one without a sample takes part with no rows."""
        if not self.probabilities:
            self.probabilities = [torch.empty(0, self.num_labels, device=self.device)]
            self.targets = [torch.empty(0, self.num_labels, dtype=torch.uint8, device=self.device)]
        super()._sync_dist(dist_sync_fn, process_group)

    def _counts(self) -> MultiLabelCounts:
        return MultiLabelCounts(*(getattr(self, name) for name in MultiLabelCounts._fields))

    def _labels(self) -> dict[str, Tensor]:
        tp = self.true_positives
        precision = _ratio(tp, tp + self.false_positives)
        recall = _ratio(tp, tp + self.false_negatives)
        kept, targets = dim_zero_cat(self.probabilities), dim_zero_cat(self.targets).bool()
        return {
            "positives": tp + self.false_negatives,
            "precision": precision,
            "recall": recall,
            "f1": _ratio(2 * tp, 2 * tp + self.false_positives + self.false_negatives),
            "average_precision": average_precision(kept, targets),
        }


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Quotient, 0 where there is nothing to divide."""
    return torch.where(whole > 0, part / whole.clamp(min=1e-30), 0.0)
