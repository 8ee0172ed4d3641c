"""Neural collapse of multi-label features: a simplex for single labels, scaled sums of it for label sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from etfhead.frames.base import checked_size
from etfhead.metrics._checks import checked_batch, checked_vectors, wide_dtype
from etfhead.metrics._moments_sync import moments_over_processes
from etfhead.metrics._sized_metric import SizedMetric
from etfhead.metrics._sync import Gather, sum_over_processes
from etfhead.metrics.class_moments import ClassMoments, add_batch, empty_moments, merge_moments
from etfhead.metrics.collapse_figures import collapse_figures
from etfhead.metrics.label_set_table import LabelSets, distinct_sets, join_sets
from etfhead.metrics.multilabel_counts import checked_hot
from etfhead.metrics.tag_average import tag_average_figures

__all__ = ["MultiLabelCollapse"]

_SINGLES = ("counts", "sums", "squares", "scatter")
_SETS = ("set_counts", "set_sums", "set_squares")


class MultiLabelCollapse(SizedMetric):
    r"""Neural collapse of multi-label features, in one pass and float64.

    Where data are balanced within each number of labels m, samples with one label collapse to a simplex, and
    those of a label set S to a scaled sum of its labels' means ("Neural Collapse in Multi-label Learning with
    Pick-all-label Loss", Li et al., ICML 2024, arXiv 2310.15903),

    .. math:: \mu_S - \mu_G = C_m \sum_{k \in S} (\mu_k - \mu_G), \qquad m = |S|,

    with the means mu_k of samples with label k alone and mu_G the unweighted mean of those. :meth:`compute`
    returns NC1 to NC3 of those samples under the names of :func:`~etfhead.metrics.neural_collapse`, and the
    figures of :func:`~etfhead.metrics.tag_average.tag_average_figures` for each m, plus
    ``samples_without_label``, which are not used. The paper's released code takes mu_G too small by the
    share of samples with one label and does not centre NC2; with features that are not centred its figures
    do not go to zero at collapse, these do.

    Kept are K d + d^2 numbers for single labels, and d + K + 2 for each distinct set of more labels: a table
    that grows with the sets that occur. The result does not depend on batches or processes.

    Args:
        num_classes: K, at least 2.
        weight: Class vectors (K, d) that NC2, NC3 and the ``in_span`` figures are measured of;
            :meth:`set_class_vectors` gives others.
        min_samples: Label sets of fewer samples are left out of the tag-wise averages.
        **kwargs: Of :class:`torchmetrics.Metric`.

    >>> metric = MultiLabelCollapse(num_classes=3)
    >>> target = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]).repeat(5, 1)
    >>> for batch in target.split(7):
    ...     metric.update(batch.float() + 1e-3 * torch.randn(len(batch), 3), batch)
    >>> figures = metric.compute()
    >>> bool(figures["nc1"] < 1e-4), int(figures["tag_sets_m2"]), round(figures["tag_scale_m2"].item(), 1)
    (True, 1, 1.0)
    """

    is_differentiable = False
    higher_is_better = False

    counts: Tensor
    sums: Tensor
    squares: Tensor
    scatter: Tensor
    set_labels: Tensor
    set_counts: Tensor
    set_sums: Tensor
    set_squares: Tensor
    without_label: Tensor
    weight: Tensor | None

    def __init__(
        self, num_classes: int, weight: Tensor | None = None, *, min_samples: int = 1, **kwargs: Any
    ) -> None:
        # Class vectors may be trained between two results: none is kept.
        super().__init__(**{"compute_with_cache": False} | kwargs)
        self.num_classes = checked_size("num_classes", num_classes, 2)
        self.min_samples = checked_size("min_samples", min_samples, 1)
        self.register_buffer("weight", None, persistent=False)
        for names, moments in (
            (_SINGLES, empty_moments(num_classes, 0)),
            (_SETS, empty_moments(0, 0, 0)[:3]),
        ):
            for name, state in zip(names, moments, strict=True):
                self.add_state(name, state, dist_reduce_fx="sum")
        none = torch.zeros(0, num_classes, dtype=torch.uint8)
        self.add_state("set_labels", none, dist_reduce_fx=None)
        self.add_state("without_label", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self._index = LabelSets()
        if weight is not None:
            self.set_class_vectors(weight)

    def set_class_vectors(self, weight: Tensor) -> None:
        """Measure NC2, NC3 and the ``in_span`` figures of these class vectors (K, d).

        Raises:
            ValueError: If the shape does not fit or a number is not finite.
        """
        checked_vectors("weight", weight, self.num_classes, self.in_features or None)
        self.weight = weight.detach()

    @property
    def in_features(self) -> int:
        """The d of the features seen; 0 before the first batch."""
        return self.sums.shape[1]

    @torch.no_grad()
    def update(self, features: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            features: What the class vectors multiply, (B, d).
            target: Multi-hot rows (B, K), 0 or 1 of any type.

        Raises:
            ValueError: If a shape or type does not fit or a feature is not finite.
        """
        rows = features.shape[:1] if isinstance(features, Tensor) else (0,)
        nothing = torch.zeros(rows, dtype=torch.int64)
        wide, _ = checked_batch(features, nothing, self.num_classes, self.in_features or None)
        hot = checked_hot("target", target, len(wide), self.num_classes).to(wide.device)
        self._take_width(wide.shape[1], wide.device)
        sizes = hot.sum(1)
        single, several = sizes == 1, sizes > 1
        add_batch(self.singles, wide[single], hot[single].int().argmax(1))
        self.without_label = self.without_label + (sizes == 0).sum()
        if bool(several.any()):
            wanted, inverse = hot[several].unique(dim=0, return_inverse=True)
            self.set_labels, moments, found = self._index.find(self.set_labels, self.sets, wanted)
            self._hold(_SETS, moments)
            add_batch(moments, wide[several], found[inverse], wide.new_empty(wide.shape[1], 0))

    @property
    def singles(self) -> ClassMoments:
        """What was kept of the samples with one label."""
        return ClassMoments(self.counts, self.sums, self.squares, self.scatter)

    @property
    def sets(self) -> ClassMoments:
        """What was kept of the sets in the rows of ``set_labels``; rows without a label are not used yet."""
        return ClassMoments(self.set_counts, self.set_sums, self.set_squares, self.set_sums.new_zeros(0, 0))

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        """The figures, over all processes.

        Raises:
            ValueError: If fewer than two classes have a sample with that label alone, none has two, or all
                their means coincide.
        """
        if int((self.counts > 0).sum()) < 2:
            raise ValueError(
                f"target: {int((self.counts > 0).sum())} of {self.num_classes} labels have a sample that "
                "carries no other; collapse compares at least two such labels: update() with more samples"
            )
        weight = self.weight
        if weight is not None:
            weight = checked_vectors("weight", weight, self.num_classes, self.in_features).to(self.sums)
        figures = collapse_figures(self.singles, weight)
        figures |= tag_average_figures(
            self.singles, self.set_labels, self.sets, weight=weight, min_samples=self.min_samples
        )
        return figures | {"samples_without_label": self.without_label.clone()}

    def merge_state(self, incoming_state: Mapping[str, Any] | Metric) -> None:
        """Add the samples that another instance, or its states by name, has seen."""
        given = incoming_state if isinstance(incoming_state, Mapping) else vars(incoming_state)
        singles = ClassMoments(*(given[name] for name in _SINGLES))
        self._computed = None
        self._update_count += 1
        if width := singles.sums.shape[1]:
            self._take_width(width, singles.sums.device)
            self._hold(_SINGLES, merge_moments(self.singles, singles))
            every = distinct_sets([self.set_labels, given["set_labels"]])
            theirs = self.sets._replace(**dict(zip(_SINGLES, (given[name] for name in _SETS), strict=False)))
            both = (
                join_sets(self.set_labels, self.sets, every),
                join_sets(given["set_labels"], theirs, every),
            )
            self._hold(_SETS, merge_moments(*both, self.set_sums.new_empty(width, 0)))
            self.set_labels = every
        self.without_label = self.without_label + given["without_label"]

    def _names_to_plot(self, rows: Sequence[Mapping[str, Tensor]]) -> tuple[str, ...]:
        errors = {name for row in rows for name in row if name.startswith("tag_error_") and "_m" in name}
        return ("nc1", "nc2_equinorm", "nc2_equiangular", "nc3", *sorted(errors))

    def _sum_states(self, gather: Gather, group: Any) -> None:
        """Label sets add up in one common table."""
        self.without_label = sum_over_processes(self.without_label, gather, group)
        every = distinct_sets(gather(self.set_labels.contiguous(), group=group))
        own = join_sets(self.set_labels, self.sets, every)
        self._hold(_SINGLES, moments_over_processes(self.singles, gather, group))
        nothing = own.sums.new_empty(self.in_features, 0)
        self._hold(_SETS, moments_over_processes(own, gather, group, nothing))
        self.set_labels = every

    def _make_states(self, width: int, device: torch.device) -> None:
        options: dict[str, Any] = {"device": device, "dtype": wide_dtype(device)}
        self._hold(_SINGLES, empty_moments(self.num_classes, width, **options))
        self._hold(_SETS, empty_moments(0, width, 0, **options))
        self.set_labels = self.set_labels.to(device)
        self.without_label = self.without_label.to(device)

    def _hold(self, names: Sequence[str], moments: ClassMoments) -> None:
        for name, value in zip(names, moments[: len(names)], strict=True):
            setattr(self, name, value)
