"""How far class means and class vectors are from a given geometry: a frame, or the optimum of a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import Frame
from etfhead.frames.last_layer import LastLayer
from etfhead.metrics._blocks import inner_products, unit_distance
from etfhead.metrics._checks import checked_batch, checked_vectors, wide_dtype
from etfhead.metrics._sized_metric import SizedMetric
from etfhead.metrics._sync import Gather, sum_over_processes
from etfhead.metrics._targets import checked_target, class_count, target_blocks

__all__ = ["FrameDistance", "frame_distance"]

_ROUNDING = 64  # units of rounding of the whole below which what is left counts as nothing


def frame_distance(
    class_means: Tensor, target: Frame | LastLayer | Tensor, weight: Tensor | None = None
) -> dict[str, Tensor]:
    r"""Distances of class means, class vectors and their products from a geometry; 0 where they have it.

    .. math:: \left\lVert \frac{G}{\lVert G \rVert_F} - \frac{G^*}{\lVert G^* \rVert_F} \right\rVert_F
              \in [0, 2], \qquad G = \bar H^T \bar H, \; W W^T, \; W \bar H

    Invariant to rotation and to positive scale of each. Its square is 2 - 2 cos of the angle between the two
    matrices; that of Gram matrices is at most a right one, sqrt(2). NC2 and NC3 of imbalanced classes in Dang
    et al. 2023 (arXiv 2301.00437); for a simplex those of Zhu et al. 2021 (arXiv 2105.02375). Means are
    centred first where the target is meant so. K x K matrices are read in blocks of rows.

    Args:
        class_means: H, (K, d), any floating type.
        target: G*: a frame (its class vectors, in any d), a :class:`~etfhead.frames.last_layer.LastLayer`, or
            one (K, K) Gram matrix for all three; any type, any device.
        weight: W, (K, d) class vectors.

    Returns:
        dict: ``means``; with a weight also ``weights`` and ``product``. Scalars in float64.

    Raises:
        ValueError: If a shape does not fit or a number is not finite, or if a matrix is zero, which has no
            shape to compare: all class means coincide, or all classes of the target collapse.

    >>> from etfhead.frames import make_frame
    >>> frame = make_frame("simplex", num_classes=4, in_features=8, basis="identity")
    >>> distance = frame_distance(5 * frame.matrix() + 1, frame, weight=torch.eye(4, 8))
    >>> {name: round(value.item(), 4) + 0.0 for name, value in distance.items()}
    {'means': 0.0, 'weights': 0.5176, 'product': 0.0}
    """
    geometry = checked_target(target)
    classes = class_count(geometry)
    means = checked_vectors("class_means", class_means, classes)
    if weight is not None:
        weight = checked_vectors("weight", weight, classes, means.shape[1]).to(means.device)
    return _distances(means, geometry, weight, None)


class FrameDistance(SizedMetric):
    r"""Distance of the last layer from a frame, or from the optimum of a loss, as batches come in.

    Keeps counts and class sums, K (d + 1) numbers, in float64. The figures are those of
    :func:`frame_distance` over the classes seen; a target restricted to them is centred anew where its means
    are meant centred. ``metric(features, labels)`` adds the batch and compares it alone, which needs two of
    the classes: call ``update`` to add only.

    Args:
        target: A frame, a :class:`~etfhead.frames.last_layer.LastLayer`, or a (K, K) Gram matrix.
        num_classes: K, to be sure; by default the target's.
        weight: W, (K, d) class vectors, copied; :meth:`set_class_vectors` changes them.
        **kwargs: Options of ``torchmetrics.Metric``.

    Returns:
        dict: From ``compute``: ``means``, with class vectors also ``weights`` and ``product``, scalars in
        float64; and ``missing_classes``, how many have no sample.

    Raises:
        ValueError: If the target, the class vectors or a batch do not fit, or, by ``compute``, if fewer than
            two classes were seen.

    >>> from etfhead.frames.imbalanced import orthogonal_geometry
    >>> target = orthogonal_geometry([8, 4, 1], weight_decay=0.01, feature_decay=0.01)
    >>> metric = FrameDistance(target, weight=target.weight_gram.sqrt())
    >>> metric.update(target.mean_gram.sqrt(), torch.tensor([0, 1, 2]))
    >>> {name: round(value.item(), 6) for name, value in metric.compute().items()}
    {'means': 0.0, 'weights': 0.0, 'product': 0.0, 'missing_classes': 0}
    """

    is_differentiable: bool = False
    plotted = ("means", "weights", "product")
    higher_is_better: bool = False
    full_state_update: bool | None = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 2.0

    counts: Tensor
    class_sums: Tensor

    def __init__(
        self,
        target: Frame | LastLayer | Tensor,
        *,
        num_classes: int | None = None,
        weight: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.target = checked_target(target)
        self.num_classes = class_count(self.target)
        if num_classes is not None and num_classes != self.num_classes:
            raise ValueError(
                f"num_classes={num_classes!r}: the target has {self.num_classes} classes; "
                "make the target for as many as the labels have"
            )
        self.weight: Tensor | None = None
        if weight is not None:
            self.set_class_vectors(weight)
        # Sized by the first batch: until then a scalar, to which a batch of any width can be added.
        # Neither default is float64, which mps does not have.
        self.add_state("counts", torch.zeros(self.num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("class_sums", torch.zeros(()), dist_reduce_fx="sum")

    def set_class_vectors(self, weight: Tensor) -> None:
        """Class vectors (K, d) to compare from now on; a copy, so that training on does not change it."""
        self.weight = checked_vectors("weight", weight, self.num_classes).clone()
        self._computed = None

    @property
    def in_features(self) -> int:
        """The d of the features seen; 0 before the first batch."""
        return self.class_sums.shape[1] if self.class_sums.ndim else 0

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            features: (B, d), any floating type.
            labels: (B,) integers from 0 to K - 1.

        Raises:
            ValueError: If it does not fit; nothing was added then.
        """
        features, labels = checked_batch(features, labels, self.num_classes, self.in_features or None)
        self._take_width(features.shape[1], features.device)
        # Not in place: reset() in inference mode leaves tensors that cannot be changed outside of it.
        self.counts = self.counts + torch.bincount(labels, minlength=self.num_classes)
        self.class_sums.index_add_(0, labels, features)

    def compute(self) -> dict[str, Tensor]:
        """Distances of the classes seen, and how many are missing."""
        seen = self.counts.nonzero().flatten()
        if len(seen) < 2:
            raise ValueError(
                f"labels: {len(seen)} of {self.num_classes} classes have a sample; a geometry is between at "
                "least two: update() with more classes first"
            )
        means = self.class_sums[seen] / self.counts[seen, None]
        weight = self.weight
        if weight is not None:
            weight = checked_vectors("weight", weight, self.num_classes, means.shape[1]).to(means.device)
        everything = len(seen) == self.num_classes
        figures = _distances(means, self.target, weight, None if everything else seen)
        figures["missing_classes"] = torch.tensor(self.num_classes - len(seen), device=means.device)
        return figures

    def _make_states(self, width: int, device: torch.device) -> None:
        self.class_sums = torch.zeros(self.num_classes, width, dtype=wide_dtype(device), device=device)
        self.counts = self.counts.to(device)

    def _sum_states(self, gather: Gather, group: Any) -> None:
        self.counts = sum_over_processes(self.counts, gather, group)
        self.class_sums = sum_over_processes(self.class_sums, gather, group)


def _distances(
    means: Tensor, target: Frame | LastLayer, weight: Tensor | None, seen: Tensor | None
) -> dict[str, Tensor]:
    """Of the means (C, d) of the classes seen; the weight and the target hold all K."""
    goals, centred = target_blocks(target, means, seen)
    means = _checked_means(means, centred)
    pairs = {"means": (means, means)}
    if weight is not None:
        weight = weight if seen is None else weight[seen]
        if not bool(weight.any()):
            raise ValueError("weight: all class vectors are zero: they have no geometry to compare")
        weight = weight / weight.abs().max()
        pairs |= {"weights": (weight, weight), "product": (weight, means)}
    figures = {}
    for name, (left, right) in pairs.items():
        ours, goal = inner_products(left, right), goals[name]
        norm, goal_norm = ours.norm(), goal.norm()
        if bool(norm <= _nothing(means) * left.norm() * right.norm()):
            raise ValueError(
                "weight: the class vectors are at right angles to all class means; are they of this layer?"
            )
        if not bool(goal_norm > 0):
            raise ValueError(
                f"target: its {name} of the {len(means)} classes seen are all zero, as where minorities "
                "collapse; compare more classes, or take smaller decays for the target"
            )
        figures[name] = unit_distance(ours, goal, norm, goal_norm)
    return figures


def _checked_means(means: Tensor, centred: bool) -> Tensor:
    """Class means of size about 1, centred if asked for, and not all the same then."""
    if not bool(means.any()):
        raise ValueError("features: all class means are zero; is the network dead?")
    means = means / means.abs().max()
    if not centred:
        return means
    shifted = means - means[0]  # first: means that coincide leave exactly nothing
    shifted = shifted - shifted.mean(0)
    if bool(shifted.norm() <= _nothing(means) * means.norm()):
        raise ValueError(
            "features: all class means coincide, so nothing is left once they are centred; is the network "
            "dead, or its features constant?"
        )
    return shifted


def _nothing(like: Tensor) -> float:
    return _ROUNDING * torch.finfo(like.dtype).eps
