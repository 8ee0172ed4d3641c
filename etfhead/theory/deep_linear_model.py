"""Free features behind several linear layers, under the squared error or cross-entropy, and its minimum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor

from etfhead.theory.minimise import Minimum, minimise

__all__ = ["DeepLinearModel", "DeepLinearSolution"]


@dataclass(frozen=True)
class DeepLinearModel:
    r"""M linear layers over the features of all samples.

    .. math:: \ell(W_M \cdots W_1 H + b 1^T, Y) + \sum_m \frac{\lambda_{W_m}}{2} \|W_m\|_F^2
              + \frac{\lambda_H}{2} \|H\|_F^2

    with ell half the squared error or cross-entropy, as a mean over the N samples.

    Args:
        class_counts: n_k.
        in_features: d, the width of the features and of all layers between.
        decays: lambda_W of W_1 to W_M.
        lambda_h: Weight of ||H||^2 / 2, a sum over samples.
        bias: Whether there is a b, without decay.
        cross_entropy: Instead of the squared error.
    """

    class_counts: tuple[int, ...]
    in_features: int
    decays: tuple[float, ...]
    lambda_h: float
    bias: bool = False
    cross_entropy: bool = False

    @property
    def name(self) -> str:
        """Every number of it, in one line."""
        loss = "CE" if self.cross_entropy else "MSE"
        bias = " +b" if self.bias else ""
        counts = ",".join(map(str, self.class_counts))
        decays = ",".join(f"{decay:.4g}" for decay in self.decays)
        sizes = f"M={len(self.decays)} n=({counts}) d={self.in_features}"
        return f"{loss}{bias}  {sizes}  lw={decays} lh={self.lambda_h:.4g}"

    @cached_property
    def labels(self) -> Tensor:
        """Class of each sample, (N,)."""
        counts = torch.tensor(self.class_counts)
        return torch.repeat_interleave(torch.arange(len(counts)), counts)

    @cached_property
    def one_hot(self) -> Tensor:
        """Y^T, (N, K)."""
        return torch.nn.functional.one_hot(self.labels, len(self.class_counts)).double()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The variables: features (N, d), layers ``w1`` to ``wM``, and the bias."""
        K, d, M = len(self.class_counts), self.in_features, len(self.decays)
        shapes: dict[str, tuple[int, ...]] = {"features": (len(self.labels), d)}
        shapes |= {f"w{m}": (K if m == M else d, d) for m in range(1, M + 1)}
        return shapes | ({"bias": (K,)} if self.bias else {})

    def layers(self, variables: Mapping[str, Tensor]) -> list[Tensor]:
        """W_1 to W_M."""
        return [variables[f"w{m}"] for m in range(1, len(self.decays) + 1)]

    def loss(self, variables: Mapping[str, Tensor]) -> Tensor:
        """The equation above."""
        layers = self.layers(variables)
        outputs = reduce(lambda x, layer: x @ layer.T, layers, variables["features"])
        if self.bias:
            outputs = outputs + variables["bias"]
        if self.cross_entropy:
            loss = torch.nn.functional.cross_entropy(outputs, self.labels)
        else:
            loss = (outputs - self.one_hot).square().sum() / (2 * len(self.labels))
        loss = loss + self.lambda_h / 2 * variables["features"].square().sum()
        for decay, layer in zip(self.decays, layers, strict=True):
            loss = loss + decay / 2 * layer.square().sum()
        return loss

    def solve(self, seed: int, *, starts: int = 4) -> DeepLinearSolution:
        """Minimise it from random starts."""
        return DeepLinearSolution(self, minimise(self.loss, self.shapes, seed=seed, starts=starts, scale=0.7))


@dataclass(frozen=True)
class DeepLinearSolution:
    """The minimum of a model, with its geometry."""

    model: DeepLinearModel
    minimum: Minimum

    @cached_property
    def weight(self) -> Tensor:
        """W_M ... W_1, (K, d)."""
        return reduce(lambda product, layer: layer @ product, self.model.layers(self.minimum.point))

    @cached_property
    def means(self) -> Tensor:
        """Mean feature of each class, (K, d)."""
        one_hot = self.model.one_hot
        return one_hot.T @ self.minimum.point["features"] / one_hot.sum(0)[:, None]

    def spread_within_classes(self) -> float:
        """Largest distance of a feature from its class mean, relative to the largest feature."""
        features = self.minimum.point["features"]
        off = (features - self.means[self.model.labels]).norm(dim=1).max()
        return (off / features.norm(dim=1).max()).item()

    def imbalance_of_layers(self) -> float:
        """Largest relative difference of lambda ||W||^2 between layers, and of lambda_H ||H||^2 from them."""
        model, point = self.model, self.minimum.point
        costs = [
            decay * layer.square().sum()
            for decay, layer in zip(model.decays, model.layers(point), strict=True)
        ]
        costs.append(model.lambda_h * point["features"].square().sum())
        return ((max(costs) - min(costs)) / max(costs)).item()

    def etf_distance(self) -> float:
        """|| WW^T/||WW^T|| - (I - 11^T/K)/sqrt(K-1) ||: 0 for a simplex ETF of any size."""
        K = len(self.model.class_counts)
        gram = self.weight @ self.weight.T
        etf = (torch.eye(K, dtype=gram.dtype) - 1 / K) / math.sqrt(K - 1)
        return (gram / gram.norm() - etf).norm().item()

    def rank(self) -> int:
        """Singular values of W_M ... W_1 above a millionth of the largest."""
        values = torch.linalg.svdvals(self.weight)
        return int((values > 1e-6 * values[0]).sum())
