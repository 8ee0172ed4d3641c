"""Where a regression layer ends: one vector a target, the fourth root of the targets' covariance, rotated."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from etfhead.frames.base import Frame, checked_seed
from etfhead.frames.basis import make_basis
from etfhead.frames.imbalanced import check_decays
from etfhead.frames.ufm import checked_covariance, spectral_map, ufm_gram

__all__ = ["RegressionFrame"]


class RegressionFrame(Frame):
    r"""Vectors of n regression targets as neural regression collapse leaves them, R random with R R^T = I.

    .. math:: W = \Sigma^{1/4} R, \qquad \text{or} \qquad
              W = \Bigl(\sqrt{\lambda_H / \lambda_W}\,
              \bigl[ \Sigma^{1/2} - \sqrt{\lambda_W \lambda_H}\, I \bigr]_+ \Bigr)^{1/2} R

    with both decays given (:func:`~etfhead.frames.ufm.ufm_gram`; Andriopoulos et al., NeurIPS 2024, arXiv
    2409.04180). The first is the limit of weak decay of features, up to scale: of all W of one norm it fits
    targets of covariance Sigma with the least feature energy, :math:`\mathrm{tr}\,\Sigma^{1/2}`. Rows are not
    unit: their norms and angles say which targets vary much, and together.

    Its state is the covariance: ``make_frame(**frame.spec(), **frame.state())`` builds it again.

    Args:
        num_classes: n, the number of targets; 1 is allowed.
        in_features: d, at least n.
        covariance: Sigma, (n, n), of the training targets.
        exponent: p of W = Sigma^p R: 1/4 is the optimum, 1/2 that of whitened targets, 0 an orthonormal W.
        weight_decay: lambda_W of the thresholded form; needs ``feature_decay`` and ``exponent`` 1/4.
        feature_decay: lambda_H.
        basis: ``"haar"``, ``"hadamard"`` or ``"identity"`` for R.
        seed: Seed of R.

    Raises:
        ValueError: If n > d, the matrix is not a covariance of n targets, or one decay stands alone.

    >>> frame = RegressionFrame(2, 8, covariance=torch.diag(torch.tensor([16.0, 1.0])))
    >>> [round(x, 12) for x in frame.matrix().norm(dim=1).tolist()]
    [2.0, 1.0]
    """

    name = "regression"
    least_classes: ClassVar[int] = 1

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        *,
        covariance: Tensor,
        exponent: float = 0.25,
        weight_decay: float | None = None,
        feature_decay: float | None = None,
        basis: Literal["identity", "hadamard", "haar"] = "haar",
        seed: int = 0,
    ) -> None:
        super().__init__(num_classes, in_features)
        if self.num_classes > self.in_features:
            raise ValueError(
                f"num_classes={num_classes} targets with in_features={in_features}: {self.num_classes} "
                "directions need as many features; widen the last layer"
            )
        self.covariance = checked_covariance("covariance", covariance, self.num_classes)
        if not (isinstance(exponent, int | float) and 0 <= exponent < math.inf):
            raise ValueError(f"exponent={exponent!r}: expected a number >= 0, such as 0.25")
        if (weight_decay is None) != (feature_decay is None):
            raise ValueError(
                f"weight_decay={weight_decay}, feature_decay={feature_decay}: expected both or neither; the "
                "threshold is their product"
            )
        self.weight_decay, self.feature_decay = weight_decay, feature_decay
        if weight_decay is not None and feature_decay is not None:
            if exponent != 0.25:
                raise ValueError(f"exponent={exponent}: the form with decays has none; leave it at 0.25")
            check_decays(weight_decay, feature_decay)
        self.exponent, self.seed = float(exponent), checked_seed(seed)
        self.basis = basis
        self._basis = make_basis(basis, self.num_classes, self.in_features, self.seed)

    def root(self) -> Tensor:
        """S of W = S R: symmetric, (n, n), float64."""
        if self.weight_decay is None or self.feature_decay is None:
            return spectral_map(self.covariance, lambda x: x**self.exponent)
        gram = ufm_gram(self.covariance, weight_decay=self.weight_decay, feature_decay=self.feature_decay)
        return spectral_map(gram, torch.sqrt)

    def directions(self) -> Tensor:
        """R: (n, d), float64, orthonormal rows."""
        return self._basis.matrix()

    def matrix(self) -> Tensor:
        """Targets' vectors as rows: (n, d), float64, CPU."""
        return self.root() @ self.directions()

    def has_form(self, weight: Tensor, tolerance: float) -> bool:
        """Whether a weight (n, d) is S R with this frame's R and any S that is symmetric and not negative.

        Args:
            weight: Float64, on the CPU.
            tolerance: Largest deviation, relative to the weight.
        """
        if not weight.isfinite().all():
            return False
        directions = self.directions()
        root = weight @ directions.T
        least = torch.linalg.eigvalsh((root + root.T) / 2)[0].item()
        off = max((weight - root @ directions).norm().item(), (root - root.T).norm().item(), -least)
        return off <= tolerance * weight.norm().item()

    def state(self) -> dict[str, Tensor]:
        """``covariance``."""
        return {"covariance": self.covariance.clone()}

    def spec(self) -> dict[str, Any]:
        """JSON-able description; what comes from data is in :meth:`state`."""
        return {
            **super().spec(),
            "exponent": self.exponent,
            "weight_decay": self.weight_decay,
            "feature_decay": self.feature_decay,
            "basis": self.basis,
            "seed": self.seed,
        }
