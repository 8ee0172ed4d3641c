"""Free features under cross-entropy with unequal class counts, signed or non-negative, and its minimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from etfhead.theory.minimise import Minimum, minimise

__all__ = ["ImbalancedCEModel", "ImbalancedCESolution", "support_vectors"]


@dataclass(frozen=True)
class ImbalancedCEModel:
    r"""One linear layer over the features of all samples.

    .. math:: \frac1N \sum_i \mathrm{CE}(W h_i, y_i) + \frac{\lambda_W}{2} \|W\|_F^2
              + \frac{\lambda_H}{2} \|H\|_F^2

    Non-negative features are the squares of free numbers, so that the problem has no bounds.

    Args:
        class_counts: n_k.
        in_features: d.
        lambda_w: Weight of ||W||^2 / 2.
        lambda_h: Weight of ||H||^2 / 2, a sum over samples.
        non_negative: Features as a ReLU gives them.
    """

    class_counts: tuple[int, ...]
    in_features: int
    lambda_w: float
    lambda_h: float
    non_negative: bool = False

    @property
    def name(self) -> str:
        """Every number of it, in one line."""
        kind = "ReLU" if self.non_negative else "signed"
        counts = ",".join(map(str, self.class_counts))
        return f"{kind}  n=({counts}) d={self.in_features}  lw={self.lambda_w:.4g} lh={self.lambda_h:.4g}"

    @cached_property
    def labels(self) -> Tensor:
        """Class of each sample, (N,)."""
        counts = torch.tensor(self.class_counts)
        return torch.repeat_interleave(torch.arange(len(counts)), counts)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The variables: features (N, d) or their roots, and W (K, d)."""
        d = self.in_features
        return {"features": (len(self.labels), d), "weight": (len(self.class_counts), d)}

    def features(self, variables: Mapping[str, Tensor]) -> Tensor:
        """H^T, (N, d)."""
        return variables["features"].square() if self.non_negative else variables["features"]

    def loss(self, variables: Mapping[str, Tensor]) -> Tensor:
        """The equation above."""
        features, weight = self.features(variables), variables["weight"]
        loss = torch.nn.functional.cross_entropy(features @ weight.T, self.labels)
        return loss + (self.lambda_w * weight.square().sum() + self.lambda_h * features.square().sum()) / 2

    def solve(self, seed: int, *, starts: int = 4) -> ImbalancedCESolution:
        """Minimise it from random starts."""
        return ImbalancedCESolution(self, minimise(self.loss, self.shapes, seed=seed, starts=starts))


@dataclass(frozen=True)
class ImbalancedCESolution:
    """The minimum of a model, with its geometry."""

    model: ImbalancedCEModel
    minimum: Minimum

    @property
    def weight(self) -> Tensor:
        """W, (K, d)."""
        return self.minimum.point["weight"]

    @cached_property
    def features(self) -> Tensor:
        """H^T, (N, d)."""
        return self.model.features(self.minimum.point)

    @cached_property
    def means(self) -> Tensor:
        """Mean feature of each class, (K, d)."""
        one_hot = torch.nn.functional.one_hot(self.model.labels).double()
        return one_hot.T @ self.features / one_hot.sum(0)[:, None]

    def spread_within_classes(self) -> float:
        """Largest distance of a feature from its class mean, relative to the largest feature."""
        off = (self.features - self.means[self.model.labels]).norm(dim=1).max()
        return (off / self.features.norm(dim=1).max()).item()


def support_vectors(
    class_counts: tuple[int, ...], in_features: int, *, seed: int, starts: int = 3
) -> ImbalancedCESolution:
    r"""The support vector machine over class vectors *and* features, solved as it stands (SLSQP).

    .. math:: \min_{W, H} \tfrac12 \|W\|_F^2 + \tfrac12 \|H\|_F^2 \quad \text{s.t.} \quad
              (w_{y_i} - w_c)^T h_i \ge 1 \quad (c \ne y_i)

    The minimum's ``gradient`` is what no non-negative multipliers explain of it.
    """
    import numpy as np
    from scipy.optimize import minimize, nnls

    model = ImbalancedCEModel(class_counts, in_features, 1.0, 1.0)
    labels, K, d = model.labels.numpy(), len(class_counts), in_features
    N, split = len(labels), len(class_counts) * in_features
    pairs = [(i, y, c) for i, y in enumerate(labels) for c in range(K) if c != y]

    def margins(x: np.ndarray) -> np.ndarray:
        W, H = x[:split].reshape(K, d), x[split:].reshape(N, d)
        return np.array([(W[y] - W[c]) @ H[i] - 1.0 for i, y, c in pairs])

    def slopes(x: np.ndarray) -> np.ndarray:
        W, H = x[:split].reshape(K, d), x[split:].reshape(N, d)
        rows = np.zeros((len(pairs), len(x)))
        for row, (i, y, c) in zip(rows, pairs, strict=True):
            row[y * d : (y + 1) * d], row[c * d : (c + 1) * d] = H[i], -H[i]
            row[split + i * d : split + (i + 1) * d] = W[y] - W[c]
        return rows

    generator = torch.Generator().manual_seed(seed)
    constraints = {"type": "ineq", "fun": margins, "jac": slopes}
    ends = []
    for _ in range(starts):
        start = torch.randn(split + N * d, generator=generator, dtype=torch.float64).numpy()
        end = minimize(
            lambda x: x @ x / 2,
            start,
            jac=lambda x: x,
            constraints=constraints,
            method="SLSQP",
            options={"maxiter": 1000, "ftol": 1e-16},
        )
        if margins(end.x).min() > -1e-9:
            ends.append(end)
    if not ends:
        nothing = torch.full((split + N * d,), float("nan"), dtype=torch.float64).numpy()
        best, loss, unexplained, evaluations, agreeing = nothing, float("nan"), float("nan"), 0, 0
    else:
        lowest = min(ends, key=lambda end: end.fun)
        best, loss = lowest.x, float(lowest.fun)
        multipliers, _ = nnls(slopes(best).T, best)
        unexplained = float(np.abs(best - slopes(best).T @ multipliers).max())
        evaluations = sum(end.nfev for end in ends)
        agreeing = sum(end.fun - loss <= 1e-7 * loss for end in ends)
    flat = torch.from_numpy(best)
    point = {"weight": flat[:split].view(K, d), "features": flat[split:].view(N, d)}
    return ImbalancedCESolution(model, Minimum(point, loss, unexplained, starts, agreeing, evaluations))
