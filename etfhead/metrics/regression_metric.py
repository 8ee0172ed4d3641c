"""Neural regression collapse as a torchmetrics metric: one pass, any number of batches and processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from etfhead.frames.base import checked_size
from etfhead.metrics._checks import checked_vectors, wide_dtype
from etfhead.metrics._moments_sync import moments_over_processes
from etfhead.metrics._sized_metric import SizedMetric
from etfhead.metrics._sync import Gather, sum_over_processes
from etfhead.metrics.class_moments import ClassMoments
from etfhead.metrics.regression_figures import regression_figures
from etfhead.metrics.regression_moments import (
    RegressionMoments,
    add_pairs,
    checked_pairs,
    empty_regression_moments,
    merge_regression_moments,
)

__all__ = ["RegressionCollapse"]


class RegressionCollapse(SizedMetric):
    r"""Neural regression collapse of a stream of features and targets, in one pass and float64.

    .. math:: \mathrm{NRC1} = \frac1M \sum_i \lVert \tilde h_i - P_n \tilde h_i \rVert^2

    and the other figures of :func:`~etfhead.metrics.regression_collapse`, which :meth:`compute` returns
    (Andriopoulos et al., NeurIPS 2024, arXiv 2409.04180). The result does not depend on how the samples are
    split into batches or processes, up to float64 rounding.

    The states are sums and squares of features beside targets about their means, and products of normalised
    features: about 2 d^2 numbers, 67 MB at d = 2048, whatever the number of samples.

    Args:
        num_targets: n, at least 1.
        weight: W (n, d), of which NRC2 and NRC3 are measured; :meth:`set_weight` gives another. Training it
            in place is followed.
        **kwargs: Of :class:`torchmetrics.Metric`.

    >>> weight = torch.eye(3, 8)
    >>> metric = RegressionCollapse(num_targets=3, weight=weight)
    >>> targets = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> for batch in targets.split(25):
    ...     metric.update(batch @ weight, batch)
    >>> figures = metric.compute()
    >>> figures["nrc1"].item() < 1e-12, figures["nrc2"].item() < 1e-12, sorted(figures)
    (True, True, ['gamma', 'nrc1', 'nrc2', 'nrc3', 'zero_features'])
    """

    is_differentiable = False
    plotted = ("nrc1", "nrc2", "nrc3")
    higher_is_better = False

    counts: Tensor
    sums: Tensor
    squares: Tensor
    scatter: Tensor
    unit_products: Tensor
    zero_features: Tensor
    weight: Tensor | None

    def __init__(self, num_targets: int, weight: Tensor | None = None, **kwargs: Any) -> None:
        # The weight may be trained between two results: none is kept.
        super().__init__(**{"compute_with_cache": False} | kwargs)
        self.num_targets = checked_size("num_targets", num_targets, 1)
        self.register_buffer("weight", None, persistent=False)
        # Until the first batch nothing is float64, which mps does not have.
        nothing = empty_regression_moments(self.num_targets, 0, dtype=torch.float32)
        for name, state in _named(nothing).items():
            self.add_state(name, state, dist_reduce_fx="sum")
        if weight is not None:
            self.set_weight(weight)

    def set_weight(self, weight: Tensor) -> None:
        """Measure NRC2 and NRC3 of this weight (n, d).

        Raises:
            ValueError: If its shape does not fit or a number is not finite.
        """
        checked_vectors("weight", weight, self.num_targets, self.in_features or None)
        self.weight = weight.detach()
        self._computed = None

    @property
    def in_features(self) -> int:
        """The d of the features seen; 0 before the first batch."""
        return self.unit_products.shape[1]

    @property
    def moments(self) -> RegressionMoments:
        """What was kept of features and targets."""
        joint = ClassMoments(self.counts, self.sums, self.squares, self.scatter)
        return RegressionMoments(joint, self.unit_products, self.zero_features)

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor) -> None:
        """Add a batch; it is added as a whole or not at all.

        Args:
            features: What the weight multiplies, (B, d).
            targets: (B, n), or (B,) for one target.

        Raises:
            ValueError: If a shape does not fit, a number is not finite, or d < n.
        """
        wide, values = checked_pairs(features, targets, self.num_targets, self.in_features or None)
        if self.weight is not None and self.weight.shape[1] != wide.shape[1]:
            raise ValueError(
                f"weight: expected shape ({self.num_targets}, {wide.shape[1]}) as the features, "
                f"got {tuple(self.weight.shape)}; set_weight() gives another"
            )
        self._take_width(wide.shape[1], wide.device)
        if len(wide):
            add_pairs(self.moments, wide, values)

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        """The figures of :func:`~etfhead.metrics.regression_collapse`, over all processes.

        Raises:
            ValueError: If there are no more samples than targets, a target is constant or all features are
                equal.
        """
        weight = self.weight
        if weight is not None and self.in_features:
            weight = checked_vectors("weight", weight, self.num_targets, self.in_features)
            weight = weight.to(self.unit_products)
        return regression_figures(self.moments, weight)

    def merge_state(self, incoming_state: Mapping[str, Any] | Metric) -> None:
        """Add the samples that another instance, or its states by name, has seen."""
        incoming = incoming_state if isinstance(incoming_state, Mapping) else vars(incoming_state)
        joint = ClassMoments(*(incoming[name] for name in ClassMoments._fields))
        other = RegressionMoments(joint, incoming["unit_products"], incoming["zero_features"])
        if width := other.unit_products.shape[1]:
            self._take_width(width, other.unit_products.device)
            with torch.inference_mode(False):  # as in _take_width
                self._hold(merge_regression_moments(self.moments, other))
        self._computed = None
        self._update_count += 1

    def _sum_states(self, gather: Gather, group: Any) -> None:
        """Squares about each process' own means go to common ones first."""
        joint = moments_over_processes(self.moments.joint, gather, group)
        products = sum_over_processes(self.unit_products, gather, group)
        zeros = sum_over_processes(self.zero_features, gather, group)
        self._hold(RegressionMoments(joint, products, zeros))

    def _make_states(self, width: int, device: torch.device) -> None:
        dtype = wide_dtype(device)
        self._hold(empty_regression_moments(self.num_targets, width, device=device, dtype=dtype))

    def _hold(self, moments: RegressionMoments) -> None:
        for name, value in _named(moments).items():
            setattr(self, name, value)


def _named(moments: RegressionMoments) -> dict[str, Tensor]:
    """Every tensor of the moments under the name of a state."""
    sums = {"unit_products": moments.unit_products, "zero_features": moments.zero_features}
    return moments.joint._asdict() | sums
