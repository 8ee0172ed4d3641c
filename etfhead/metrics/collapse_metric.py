"""Neural collapse as a torchmetrics metric: one pass, any number of batches and processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from etfhead.frames.base import checked_size
from etfhead.metrics._checks import (
    checked_basis,
    checked_batch,
    checked_bias,
    checked_predictions,
    checked_vectors,
    wide_dtype,
)
from etfhead.metrics._disagreement_states import DisagreementStates
from etfhead.metrics._moments_sync import moments_over_processes
from etfhead.metrics._sized_metric import SizedMetric
from etfhead.metrics._sync import Gather
from etfhead.metrics.class_moments import ClassMoments, add_batch, empty_moments, merge_moments
from etfhead.metrics.collapse_figures import centred_means, class_values, collapse_figures
from etfhead.metrics.functional import predicted_classes
from etfhead.metrics.variability import between_classes

__all__ = ["NeuralCollapse"]


class NeuralCollapse(DisagreementStates, SizedMetric):
    r"""Neural collapse of a stream of features: NC1 to NC4 and CDNV, in one pass and float64.

    .. math:: \mathrm{NC1} = \tfrac1K \mathrm{tr}(\Sigma_W \Sigma_B^+)

    and the other figures of :func:`~etfhead.metrics.neural_collapse`, which :meth:`compute` returns (Papyan,
    Han & Donoho 2020, arXiv 2008.08186). The result does not depend on how the samples are split into batches
    or processes, up to float64 rounding, and loses no digits to a mean that is large beside the spread.

    The states are counts, class sums and squares about the class means: K d + d^2 numbers, 164 + 34 MB at
    K = 10,000 and d = 2048, whatever the number of samples. They are brought to common class means and added
    up over processes. NC4 alone needs the samples again once the class means are known: with ``nc4="exact"``
    the features are kept until then, on their process and in their own type.

    ``metric(features, labels)`` adds the batch and gives its own figures; it raises where the batch has none
    (two classes and two samples of one are the least): call :meth:`update` to add only.

    Args:
        num_classes: K, at least 2.
        weight: Class vectors (K, d) that NC2, NC3 and NC4 are measured of; :meth:`set_class_vectors` gives
            others. Training them in place is followed.
        bias: (K,), for NC4.
        projection: P (d, m). Squares are kept of P^T h alone: m^2 instead of d^2 numbers. NC1 stays exact if
            the columns span the centred class means (:meth:`mean_directions` of a first pass); otherwise it
            belongs to the projected features, and ``between_in_projection`` is the share of the between-class
            variance they hold. All other figures are exact in any case.
        nc4: ``"exact"``; ``"running"``: every batch is judged by the class means so far, nothing is kept, and
            the result depends on the order; None: not measured.
        **kwargs: Of :class:`torchmetrics.Metric`.

    >>> metric = NeuralCollapse(num_classes=3, weight=torch.eye(3))
    >>> labels = torch.arange(60) % 3
    >>> for batch in labels.split(25):
    ...     metric.update(torch.eye(3)[batch] + 1e-3 * torch.randn(len(batch), 3), batch)
    >>> figures = metric.compute()
    >>> bool(figures["nc1"] < 1e-4), bool(figures["nc2_etf"] < 1e-2), figures["nc4"].item()
    (True, True, 0.0)
    """

    is_differentiable = False
    plotted = ("nc1", "cdnv", "nc2_equinorm", "nc2_equiangular", "nc3", "nc4")
    higher_is_better = False

    counts: Tensor
    sums: Tensor
    squares: Tensor
    scatter: Tensor
    weight: Tensor | None
    bias: Tensor | None
    projection: Tensor | None

    def __init__(
        self,
        num_classes: int,
        *,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        projection: Tensor | None = None,
        nc4: Literal["exact", "running"] | None = "exact",
        **kwargs: Any,
    ) -> None:
        # Class vectors may be trained between two results: none is kept.
        super().__init__(**{"compute_with_cache": False} | kwargs)
        self.num_classes = checked_size("num_classes", num_classes, 2)
        if nc4 not in ("exact", "running", None):
            raise ValueError(f"nc4={nc4!r}: expected 'exact', 'running' or None")
        self.nc4 = nc4
        self.register_buffer("weight", None, persistent=False)
        self.register_buffer("bias", None, persistent=False)
        basis = None if projection is None else checked_basis(projection)
        self.register_buffer("projection", basis, persistent=False)
        for name, state in zip(ClassMoments._fields, self._nothing(0), strict=True):
            self.add_state(name, state, dist_reduce_fx="sum")
        self._add_disagreement_states()
        # Of metrics whose states agree after the first batch MetricCollection updates one alone; NC4 is of
        # each one's class vectors. NaN agrees with nothing.
        self.add_state("apart", torch.tensor(torch.nan), dist_reduce_fx=None)
        if weight is not None:
            self.set_class_vectors(weight, bias)

    def set_class_vectors(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Measure NC2, NC3 and NC4 of these class vectors (K, d) and bias (K,).

        Raises:
            ValueError: If a shape does not fit or a number is not finite.
        """
        checked_vectors("weight", weight, self.num_classes, self.in_features or None)
        self.bias = None if bias is None else checked_bias(bias, self.num_classes)
        self.weight = weight.detach()
        self._computed = None

    @property
    def in_features(self) -> int:
        """The d of the features seen; 0 before the first batch."""
        return self.sums.shape[1]

    @property
    def moments(self) -> ClassMoments:
        """What was kept of the features."""
        return ClassMoments(self.counts, self.sums, self.squares, self.scatter)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, predictions: Tensor | None = None) -> None:
        """Add a batch; it is added as a whole or not at all.

        Args:
            features: What the class vectors multiply, (B, d).
            labels: Classes, (B,), from 0 to K - 1.
            predictions: The classifier's classes, (B,), for NC4; None takes those of ``weight`` and ``bias``.

        Raises:
            ValueError: If a shape does not fit, a class is out of range or a feature is not finite.
        """
        wide, labels = checked_batch(features, labels, self.num_classes, self.in_features or None)
        if self.weight is not None and self.weight.shape[1] != wide.shape[1]:
            raise ValueError(
                f"weight: expected shape ({self.num_classes}, {wide.shape[1]}) as the features, "
                f"got {tuple(self.weight.shape)}; set_class_vectors() gives others"
            )
        if predictions is not None:
            predictions = checked_predictions(predictions, len(labels))
        self._take_width(wide.shape[1], wide.device)
        add_batch(self.moments, wide, labels, self.projection)
        if self.nc4 is None or (predictions is None and self.weight is None) or not len(labels):
            return
        if predictions is None:
            assert self.weight is not None  # noqa: S101 - said above
            predictions = predicted_classes(wide, self.weight, self.bias)
        self._judge(features, predictions, self.moments)

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        """The figures of :func:`~etfhead.metrics.neural_collapse`, over all processes.

        Raises:
            ValueError: If fewer than two classes have a sample, no class has two, or all class means are one.
        """
        figures = collapse_figures(self.moments, self._vectors(), self.projection)
        wrong, decided = self._judged(self.moments)
        if int(decided):
            figures["nc4"] = wrong.to(self.sums.dtype) / decided
        return figures

    def class_values(self) -> dict[str, Tensor]:
        """Variance, norm, closest neighbour and alignment of each class of this process' samples.

        See :func:`~etfhead.metrics.collapse_figures.class_values`.
        """
        return class_values(self.moments, self._vectors())

    def mean_directions(self) -> Tensor:
        """An orthonormal basis (d, C - 1) of the span of the centred class means, for ``projection``."""
        return between_classes(centred_means(self.moments)[0]).directions

    def merge_state(self, incoming_state: Mapping[str, Any] | Metric) -> None:
        """Add the samples that another instance, or its states by name, has seen.

        Raises:
            ValueError: If it is of another number of classes, features or columns of the projection.
        """
        incoming = incoming_state if isinstance(incoming_state, Mapping) else vars(incoming_state)
        other = ClassMoments(*(incoming[name] for name in ClassMoments._fields))
        if width := other.sums.shape[1]:
            own = self.moments if self.in_features else self._nothing(width)
            if [part.shape for part in other] != [part.shape for part in own]:
                raise ValueError(
                    f"incoming_state: expected sums {tuple(own.sums.shape)} and scatter "
                    f"{tuple(own.scatter.shape)}, got {tuple(other.sums.shape)} and "
                    f"{tuple(other.scatter.shape)}; merge those of the same classes, features and projection"
                )
            self._take_width(width, other.sums.device)
            with torch.inference_mode(False):  # as in _take_width
                self._hold(merge_moments(self.moments, other, self.projection))
        self._computed = None
        self._update_count += 1
        self._merge_judged(incoming)

    def _sum_states(self, gather: Gather, group: Any) -> None:
        """Squares about each process' own class means go to common ones first."""
        self._hold(moments_over_processes(self.moments, gather, group, self.projection))
        self._sum_judged(self.moments, gather, group)

    def _vectors(self) -> Tensor | None:
        if self.weight is None:
            return None
        return checked_vectors("weight", self.weight, self.num_classes, self.in_features or None).to(
            self.sums
        )

    def _nothing(self, width: int, device: torch.device | None = None) -> ClassMoments:
        columns = None if self.projection is None else self.projection.shape[1]
        # Until the first batch nothing is float64, which mps does not have.
        dtype = torch.float32 if device is None else wide_dtype(device)
        return empty_moments(self.num_classes, width, columns, device=device, dtype=dtype)

    def _make_states(self, width: int, device: torch.device) -> None:
        if self.projection is not None and len(self.projection) != width:
            raise ValueError(f"projection: expected {width} rows, one a feature, got {len(self.projection)}")
        self._hold(self._nothing(width, device))

    def _hold(self, moments: ClassMoments) -> None:
        for name, value in zip(ClassMoments._fields, moments, strict=True):
            setattr(self, name, value)
