"""The closed form of the pick-all-label model with balanced label sets, beside the full model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from etfhead.frames.tagwise import tagwise_constants, tagwise_gaps
from etfhead.frames.tagwise_strength import fixed_frame_kappa, tagwise_kappa
from etfhead.theory.pal_model import PalModel, balanced

__all__ = ["BalancedPal"]


@dataclass(frozen=True)
class BalancedPal:
    """A pick-all-label model with every m-subset of the classes ``copies[m]`` times; see `PalModel`."""

    num_classes: int
    copies: Mapping[int, int]
    in_features: int
    lambda_w: float | None
    lambda_h: float
    lambda_b: float | None = None
    normalize: bool = False

    @property
    def name(self) -> str:
        """Every number of it, in one line."""
        sets = ", ".join(f"{size}:{count}" for size, count in self.copies.items())
        weight = "W = ETF" if self.lambda_w is None else f"lw={self.lambda_w:.4g}"
        bias = "" if self.lambda_b is None else f" lb={self.lambda_b:.4g}"
        loss = "PAL/m" if self.normalize else "PAL"
        model = f"{loss}  K={self.num_classes} d={self.in_features} n={{{sets}}}"
        return f"{model}  {weight} lh={self.lambda_h:.4g}{bias}"

    @property
    def model(self) -> PalModel:
        """The full model: one feature vector a sample."""
        return PalModel(
            self.num_classes,
            balanced(self.num_classes, self.copies),
            self.in_features,
            self.lambda_w,
            self.lambda_h,
            self.lambda_b,
            self.normalize,
        )

    @property
    def sizes(self) -> list[int]:
        """Numbers of labels m that have a direction: not 0 and not K."""
        return [size for size in self.copies if 0 < size < self.num_classes]

    @property
    def num_samples(self) -> int:
        """N."""
        return sum(count * math.comb(self.num_classes, size) for size, count in self.copies.items())

    @cached_property
    def kappa(self) -> float:
        """Predicted kappa: 0 where everything collapses to zero."""
        if self.lambda_w is None:
            return fixed_frame_kappa(self.num_classes, self.num_samples, feature_decay=self.lambda_h)
        return tagwise_kappa(
            self.num_classes,
            self.copies,
            weight_decay=self.lambda_w,
            feature_decay=self.lambda_h,
            normalize=self.normalize,
        )

    @property
    def rho(self) -> float:
        """Predicted rho of W W^T = rho (I - 11^T/K)."""
        return 2 * self.num_samples * self.lambda_h * self.kappa / self.num_classes

    def gaps(self) -> dict[int, float]:
        """Predicted delta_m."""
        found = tagwise_gaps(self.num_classes, self.kappa, self.sizes, normalize=self.normalize)
        return dict(zip(self.sizes, found.tolist(), strict=True))

    def constants(self) -> dict[int, float]:
        """Predicted C_m."""
        found = tagwise_constants(self.num_classes, self.kappa, self.sizes, normalize=self.normalize)
        return dict(zip(self.sizes, found.tolist(), strict=True))

    def loss(self) -> float:
        """Predicted lowest loss, regularisation included."""
        K, gaps, total = self.num_classes, self.gaps(), 0.0
        for size, count in self.copies.items():
            # Of an empty or a full set nothing but the uniform softmax is left.
            gap = gaps.get(size, 0.0)
            fit = size * math.log(size + (K - size) * math.exp(-gap)) if size else 0.0
            fit /= size if self.normalize and size else 1
            squared_norm = gap**2 / self.rho * size * (K - size) / K if gap else 0.0
            total += count * math.comb(K, size) * (fit / self.num_samples + self.lambda_h * squared_norm)
        return total + (0.0 if self.lambda_w is None else self.lambda_w * self.rho * (K - 1))
