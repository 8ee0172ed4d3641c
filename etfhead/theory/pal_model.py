"""The unconstrained-feature model of the pick-all-label loss, and what is read off its minimum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from etfhead.frames import SimplexFrame
from etfhead.theory.minimise import Minimum, minimise

__all__ = ["LabelSet", "PalModel", "PalSolution", "balanced"]

LabelSet = tuple[int, ...]


def balanced(num_classes: int, copies: Mapping[int, int]) -> tuple[LabelSet, ...]:
    """Every m-subset of the classes, ``copies[m]`` times each.

    >>> balanced(3, {1: 2, 2: 1})
    ((0,), (0,), (1,), (1,), (2,), (2,), (0, 1), (0, 2), (1, 2))
    """
    return tuple(
        labels
        for size, count in copies.items()
        for labels in itertools.combinations(range(num_classes), size)
        for _ in range(count)
    )


@dataclass(frozen=True)
class PalModel:
    r"""Free features H and a classifier W, b under the pick-all-label loss.

    .. math::
        \frac1N \sum_i a_i \sum_{k \in S_i} \ell_{\mathrm{CE}}(W h_i + b, k)
        + \lambda_W \|W\|_F^2 + \lambda_H \|H\|_F^2 + \lambda_b \|b\|^2

    with a_i = 1, or 1/|S_i| if ``normalize``. Every sample has its own feature,
    copies of a label set too.

    Args:
        num_classes: K.
        label_sets: One tuple of classes a sample.
        in_features: d.
        lambda_w: Weight of ||W||^2; None fixes W to the unit-row simplex ETF.
        lambda_h: Weight of ||H||^2, a sum over samples.
        lambda_b: Weight of ||b||^2; None leaves b out.
        normalize: Divide each sample's loss by its number of labels.
    """

    num_classes: int
    label_sets: tuple[LabelSet, ...]
    in_features: int
    lambda_w: float | None
    lambda_h: float
    lambda_b: float | None = None
    normalize: bool = False

    @cached_property
    def targets(self) -> Tensor:
        """Multi-hot label sets, N x K."""
        targets = torch.zeros(len(self.label_sets), self.num_classes, dtype=torch.float64)
        for row, labels in zip(targets, self.label_sets, strict=True):
            row[list(labels)] = 1
        return targets

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The variables: features, and W and b unless fixed or left out."""
        shapes: dict[str, tuple[int, ...]] = {"features": (len(self.label_sets), self.in_features)}
        if self.lambda_w is not None:
            shapes["weight"] = (self.num_classes, self.in_features)
        if self.lambda_b is not None:
            shapes["bias"] = (self.num_classes,)
        return shapes

    @cached_property
    def _etf(self) -> Tensor:
        return SimplexFrame(self.num_classes, self.in_features, basis="haar").matrix()

    def weight(self, variables: Mapping[str, Tensor]) -> Tensor:
        """W, learned or fixed."""
        return self._etf if self.lambda_w is None else variables["weight"]

    def logits(self, variables: Mapping[str, Tensor]) -> Tensor:
        """W h_i + b, N x K."""
        logits = variables["features"] @ self.weight(variables).T
        return logits if self.lambda_b is None else logits + variables["bias"]

    def loss(self, variables: Mapping[str, Tensor]) -> Tensor:
        """The equation above."""
        logits, sizes = self.logits(variables), self.targets.sum(1)
        losses = sizes * logits.logsumexp(1) - (self.targets * logits).sum(1)
        # An empty label set has no loss either way.
        loss = (losses / sizes.clamp(min=1) if self.normalize else losses).mean()
        loss = loss + self.lambda_h * variables["features"].square().sum()
        if self.lambda_w is not None:
            loss = loss + self.lambda_w * variables["weight"].square().sum()
        if self.lambda_b is not None:
            loss = loss + self.lambda_b * variables["bias"].square().sum()
        return loss

    def solve(self, seed: int) -> PalSolution:
        """Minimise it from three random starts."""
        return PalSolution(self, minimise(self.loss, self.shapes, seed=seed))


@dataclass(frozen=True)
class PalSolution:
    """The minimum of a model, with its geometry."""

    model: PalModel
    minimum: Minimum

    @cached_property
    def weight(self) -> Tensor:
        """W at the minimum, K x d."""
        return self.model.weight(self.minimum.point)

    @cached_property
    def logits(self) -> Tensor:
        """Logits at the minimum, N x K."""
        return self.model.logits(self.minimum.point)

    @cached_property
    def set_means(self) -> dict[LabelSet, Tensor]:
        """Mean feature of every label set that occurs."""
        rows: dict[LabelSet, list[int]] = {}
        for at, labels in enumerate(self.model.label_sets):
            rows.setdefault(labels, []).append(at)
        features = self.minimum.point["features"]
        return {labels: features[which].mean(0) for labels, which in rows.items()}

    @property
    def sizes(self) -> list[int]:
        """Sizes of the label sets that occur, ascending."""
        return sorted({len(labels) for labels in self.set_means})

    def of_size(self, size: int) -> list[LabelSet]:
        """The label sets of one size that occur."""
        return [labels for labels in self.set_means if len(labels) == size]

    def gaps(self, size: int) -> Tensor:
        """z_k - z_j for every sample of ``size`` labels, every label k and every other class j."""
        found = []
        for labels, logits in zip(self.model.label_sets, self.logits, strict=True):
            if len(labels) == size:
                inside = torch.zeros(self.model.num_classes, dtype=torch.bool)
                inside[list(labels)] = True
                found.append((logits[inside, None] - logits[None, ~inside]).flatten())
        return torch.cat(found)

    def etf_distance(self) -> float:
        """|| WW^T/||WW^T|| - (I - 11^T/K)/sqrt(K-1) ||: 0 for a simplex ETF of any size."""
        K = self.model.num_classes
        gram = self.weight @ self.weight.T
        etf = (torch.eye(K, dtype=gram.dtype) - 1 / K) / math.sqrt(K - 1)
        return (gram / gram.norm() - etf).norm().item()

    def spread_within_sets(self) -> float:
        """Largest distance of a feature from the mean of its label set, relative to the largest feature."""
        features = self.minimum.point["features"]
        means = torch.stack([self.set_means[labels] for labels in self.model.label_sets])
        return ((features - means).norm(dim=1).max() / features.norm(dim=1).max()).item()

    def tag_sum(self, labels: Sequence[int]) -> Tensor:
        """Sum of the single-label features of these classes."""
        return torch.stack([self.set_means[(k,)] for k in labels]).sum(0)

    def constants(self, size: int) -> Tensor:
        """<h_S, s> / <s, s> with s the tag sum of S, for every S of this size."""
        pairs = [(self.set_means[labels], self.tag_sum(labels)) for labels in self.of_size(size)]
        return torch.stack([mean @ total / (total @ total) for mean, total in pairs])

    def largest_angle(self, size: int) -> float:
        """Largest angle in degrees between h_S and the tag sum of S, over the S of this size."""
        angles = []
        for labels in self.of_size(size):
            a, b = self.set_means[labels], self.tag_sum(labels)
            a, b = a / a.norm(), b / b.norm()
            # Not arccos of the cosine: that cannot tell angles below 1e-8 from zero.
            angles.append(2 * math.atan2((a - b).norm().item(), (a + b).norm().item()))
        return math.degrees(max(angles))

    def decoded(self) -> float:
        """Share of samples whose centred logits are positive on their labels and nowhere else."""
        centred = self.logits - self.logits.mean(1, keepdim=True)
        return ((centred > 0) == (self.model.targets > 0)).all(1).double().mean().item()
