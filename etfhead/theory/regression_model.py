"""The unconstrained-feature model of multivariate regression, its closed-form optimum and its minimum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from etfhead.frames.ufm import spectral_map, ufm_gram
from etfhead.theory.minimise import Minimum, minimise

__all__ = ["RegressionModel", "RegressionSolution", "drawn_targets"]

_RANK = 1e-9  # eigenvalues that count as zero, relative to the largest


def drawn_targets(covariance: Tensor, samples: int, mean: float = 1.0) -> Tensor:
    """Normal targets (M, n) moved and scaled until mean and covariance are exactly these, always the same.

    >>> values = drawn_targets(torch.eye(2, dtype=torch.float64), 10)
    >>> bool(torch.allclose((values - 1).T @ (values - 1) / 10, torch.eye(2, dtype=torch.float64)))
    True
    """
    generator = torch.Generator("cpu").manual_seed(0)
    values = torch.randn(samples, len(covariance), generator=generator, dtype=torch.float64)
    values = values - values.mean(0)
    white = values @ spectral_map(values.T @ values / samples, torch.rsqrt)
    return white @ spectral_map(covariance, torch.sqrt) + mean


@dataclass(frozen=True, eq=False)
class RegressionModel:
    r"""Free features H (M, d) and a linear layer W (n, d), b under the squared error.

    .. math:: \frac{1}{2M} \lVert H W^T + 1 b^T - Y \rVert_F^2
              + \frac{\lambda_H}{2M} \lVert H \rVert_F^2 + \frac{\lambda_W}{2} \lVert W \rVert_F^2

    Args:
        targets: Y, (M, n), float64.
        in_features: d.
        lambda_w: Decay of W; 0 for none.
        lambda_h: Decay of H; 0 for none.
        bias: Whether there is a b, without decay.
        mean_over_targets: Divide the squared error by n too, as half of ``mse_loss`` does.
        non_negative: Features behind a ReLU: H is the square of the free variables.
    """

    targets: Tensor
    in_features: int
    lambda_w: float
    lambda_h: float
    bias: bool = True
    mean_over_targets: bool = False
    non_negative: bool = False

    @property
    def samples(self) -> int:
        """M."""
        return len(self.targets)

    @property
    def num_targets(self) -> int:
        """The number n."""
        return self.targets.shape[1]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The variables."""
        shapes: dict[str, tuple[int, ...]] = {
            "features": (self.samples, self.in_features),
            "weight": (self.num_targets, self.in_features),
        }
        return shapes | ({"bias": (self.num_targets,)} if self.bias else {})

    def features(self, variables: Mapping[str, Tensor]) -> Tensor:
        """H, (M, d)."""
        return variables["features"].square() if self.non_negative else variables["features"]

    def residual(self, variables: Mapping[str, Tensor]) -> Tensor:
        """H W^T + b - Y, (M, n)."""
        outputs = self.features(variables) @ variables["weight"].T
        return (outputs + variables["bias"] if self.bias else outputs) - self.targets

    def loss(self, variables: Mapping[str, Tensor]) -> Tensor:
        """The equation above."""
        fit = self.residual(variables).square().sum() / (2 * self.samples * self._divisor)
        energy = self.features(variables).square().sum() / self.samples
        decay = self.lambda_h * energy + self.lambda_w * variables["weight"].square().sum()
        return fit + decay / 2

    def solve(self, seed: int) -> RegressionSolution:
        """Minimise it from three random starts."""
        return RegressionSolution(self, minimise(self.loss, self.shapes, seed=seed))

    @property
    def _divisor(self) -> int:
        return self.num_targets if self.mean_over_targets else 1

    @property
    def threshold(self) -> float:
        """c: variances below it are not fitted. A mean over targets makes both decays n times as strong."""
        return self._divisor**2 * self.lambda_w * self.lambda_h

    @cached_property
    def mean(self) -> Tensor:
        """What a bias takes away, (n,): the mean of the targets, or zero without a bias."""
        return self.targets.mean(0) if self.bias else torch.zeros_like(self.targets[0])

    @cached_property
    def covariance(self) -> Tensor:
        """Sigma, (n, n): about zero if there is no bias."""
        centred = self.targets - self.mean
        return centred.T @ centred / self.samples

    @cached_property
    def predicted_gram(self) -> Tensor:
        """W W^T at the optimum, (n, n)."""
        return ufm_gram(
            self.covariance,
            weight_decay=self._divisor * self.lambda_w,
            feature_decay=self._divisor * self.lambda_h,
            in_features=self.in_features,
        )

    def predicted_loss(self) -> float:
        """The lowest loss, decays included."""
        variances = torch.linalg.eigvalsh(self.covariance).clamp(min=0.0)
        fitted, c = self._fitted(variances), self.threshold
        best = torch.where(fitted, c / 2 + math.sqrt(c) * (variances.sqrt() - math.sqrt(c)), variances / 2)
        return best.sum().item() / self._divisor

    def predicted_residual_covariance(self) -> Tensor:
        """Covariance of H W^T + b - Y at the optimum: c in every direction that is fitted."""
        return spectral_map(self.covariance, lambda x: torch.where(self._fitted(x), self.threshold, x))

    def predicted_features(self, weight: Tensor) -> Tensor:
        """H at the optimum with this W, (M, d)."""
        inverse = spectral_map(
            self.covariance, lambda x: torch.where(x > _RANK * x.max(), x, torch.inf).rsqrt()
        )
        gain = math.sqrt(self.lambda_w / self.lambda_h)
        return gain * (self.targets - self.mean) @ inverse @ weight

    def _fitted(self, variances: Tensor) -> Tensor:
        """Which of the variances, in ascending order, W has a direction for."""
        fitted = variances > self.threshold
        fitted[: max(len(variances) - self.in_features, 0)] = False
        return fitted


@dataclass(frozen=True, eq=False)
class RegressionSolution:
    """The minimum of a model, with its geometry."""

    model: RegressionModel
    minimum: Minimum

    @property
    def weight(self) -> Tensor:
        """W at the minimum, (n, d)."""
        return self.minimum.point["weight"]

    @property
    def bias(self) -> Tensor:
        """The bias b at the minimum, (n,)."""
        return self.minimum.point["bias"]

    @cached_property
    def features(self) -> Tensor:
        """H at the minimum, (M, d)."""
        return self.model.features(self.minimum.point)

    @cached_property
    def residual(self) -> Tensor:
        """H W^T + b - Y at the minimum, (M, n)."""
        return self.model.residual(self.minimum.point)

    def nrc1(self, features: Tensor | None = None) -> float:
        """Mean square of the normalised features outside the first n principal components."""
        H = self.features if features is None else features
        right = torch.linalg.svd(H - H.mean(0), full_matrices=False).Vh
        return _outside(H, right[: self.model.num_targets])

    def nrc2(self, features: Tensor | None = None) -> float:
        """Mean square of the normalised features outside the rows of W."""
        _, spectrum, right = torch.linalg.svd(self.weight, full_matrices=False)
        rows = right[spectrum > 1e-6 * spectrum[0]]
        return _outside(self.features if features is None else features, rows)


def _outside(features: Tensor, rows: Tensor) -> float:
    unit = torch.nn.functional.normalize(features, dim=1)
    return (unit - unit @ rows.T @ rows).square().sum(1).mean().item()
