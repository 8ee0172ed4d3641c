"""Base of the frames that know how many samples each class has: lengths, perhaps centring, a fast basis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import Frame
from etfhead.frames.basis_frame import BasisFrame
from etfhead.frames.imbalanced import check_decays, checked_counts
from etfhead.frames.orthogonal_factors import helmert_matrix

__all__ = ["CountedFrame", "geometric_decay", "is_made_for_counts"]


def geometric_decay(weight_decay: float, feature_decay: float) -> float:
    """sqrt(lambda_W lambda_H), all that a shape depends on; 0, its limit, where both are 0."""
    if weight_decay == 0 and feature_decay == 0:
        return 0.0
    check_decays(weight_decay, feature_decay)
    return math.sqrt(weight_decay * feature_decay)


class CountedFrame(BasisFrame):
    r"""Class vectors whose lengths or angles follow the class counts, with a mean square length of 1.

    .. math:: M = \mathrm{diag}(a)\,U^\top, \qquad M = (I - \tfrac1K 1 1^\top)\,\mathrm{diag}(a)\,U^\top
              \qquad \text{or} \qquad M = R\,U^\top

    with orthonormal directions U. The first two need no (K, d) matrix. A subclass calls
    :meth:`_set_lengths` or :meth:`_set_root` once.

    Attributes:
        class_counts: Samples of each class, or None.
        optimal_scale: What the matrix is multiplied with to be the optimum itself, for decays that are not 0.
    """

    optimal_scale: float | None = None

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        *,
        class_counts: Sequence[int] | Tensor | None,
        spare_class: bool,
        needs: str,
        basis: str,
        seed: int,
    ) -> None:
        super().__init__(num_classes, in_features)
        K, d = self.num_classes, self.in_features
        most = d + spare_class
        if most < K:
            limit = f"in_features + 1 = {most}" if spare_class else f"in_features = {most}"
            raise ValueError(
                f"num_classes={K} with in_features={d}: {needs} num_classes <= {limit}. For more classes "
                'take frame="auto", which knows no class counts, or put a projection neck in front: '
                f"nn.Linear({d}, {K - spare_class})"
            )
        self.class_counts: tuple[int, ...] | None = None
        self._counts = torch.ones(K, dtype=torch.float64, device="cpu")
        if class_counts is not None:
            self._counts = checked_counts(class_counts)
            if len(self._counts) != K:
                raise ValueError(
                    f"class_counts: expected {K} numbers, one per class, got {len(self._counts)}"
                )
            self.class_counts = tuple(int(count) for count in self._counts.tolist())
        self._set_basis(basis, min(K, d), seed)
        self._lengths: Tensor | None = None
        self._centred = False
        self._root: Tensor | None = None

    @property
    def balanced(self) -> bool:
        """Whether all classes have the same count, or none is given."""
        return bool((self._counts == self._counts[0]).all())

    def _set_lengths(self, squares: Tensor, *, centred: bool) -> float:
        """Lengths a from their squares up to scale; returns the root of the mean square it divided by."""
        K = self.num_classes
        if centred and self.in_features < K:  # no room for K directions: an orthonormal basis of their plane
            return self._set_root(helmert_matrix(K) @ helmert_matrix(K).T * squares[0].sqrt())
        norms = squares * (1 - 2 / K) + squares.sum() / K**2 if centred else squares
        size = self._checked_size(norms)
        self._lengths, self._centred, self._max_norm = (
            squares.sqrt() / size,
            centred,
            norms.max().sqrt().item() / size,
        )
        return size

    def _set_root(self, root: Tensor) -> float:
        """A symmetric root R (K, K) up to scale, rows summing to zero; returns what it was divided by."""
        norms = root.square().sum(1)
        size = self._checked_size(norms)
        if self.num_classes > self.in_features:
            root = root @ helmert_matrix(self.num_classes)
        self._root, self._max_norm = root / size, norms.max().sqrt().item() / size
        return size

    @staticmethod
    def _checked_size(squared_norms: Tensor) -> float:
        size = squared_norms.mean().sqrt().item()
        if not 0.0 < size < math.inf:
            raise ValueError(
                "weight_decay, feature_decay: so large that every class vector vanishes; expected a product "
                "below the threshold of the largest class. Lower them, or leave both at 0"
            )
        return size

    @property
    def _maps_coordinates(self) -> bool:
        return self._lengths is not None

    @property
    def max_norm(self) -> float:
        """Norm of the longest class vector."""
        return self._max_norm

    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, mean square norm 1."""
        directions = self._directions()
        if self._lengths is None:
            assert self._root is not None  # noqa: S101 - a subclass sets one of the two
            return self._root @ directions
        vectors = self._lengths[:, None] * directions
        # A running sum has one order on every machine.
        return vectors - vectors.cumsum(0)[-1] / self.num_classes if self._centred else vectors

    def factors(self) -> dict[str, Tensor]:
        """The basis' factors and ``lengths`` (K,), or the dense matrix as ``weight``."""
        if not self.structured:
            return super().factors()
        assert self._lengths is not None  # noqa: S101 - structured says so
        return {**super().factors(), "lengths": self._lengths.clone()}

    def _to_classes(self, coordinates: Tensor, factors: dict[str, Tensor]) -> Tensor:
        coordinates = coordinates * factors["lengths"]
        return coordinates - coordinates.mean(-1, keepdim=True) if self._centred else coordinates

    def _to_coordinates(self, coefficients: Tensor, factors: dict[str, Tensor]) -> Tensor:
        if self._centred:
            coefficients = coefficients - coefficients.mean(-1, keepdim=True)
        return coefficients * factors["lengths"]

    def shifted_logits(self, features: Tensor, factors: dict[str, Tensor]) -> tuple[Tensor, float]:
        """:meth:`apply` without the centring of a structured frame."""
        if not self.structured:
            return super().shifted_logits(features, factors)
        return self._basis.apply(features, factors) * factors["lengths"], 1.0

    def _options(self) -> dict[str, Any]:
        return {"class_counts": None if self.class_counts is None else list(self.class_counts)}

    def __repr__(self) -> str:
        spec = self.spec()
        if self.class_counts is not None and self.num_classes > 10:
            spec["class_counts"] = f"{max(self.class_counts)}..{min(self.class_counts)}"
        return f"{spec.pop('name')}({', '.join(f'{k}={v}' for k, v in spec.items())})"


def is_made_for_counts(frame: Frame) -> bool:
    """Whether each vector belongs to the class of its count, so that vectors cannot be handed out anew."""
    return isinstance(frame, CountedFrame) and not frame.balanced
