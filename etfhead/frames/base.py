"""The one object everything follows from: K class vectors in R^d and a fast way to apply them."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

__all__ = ["Coherence", "Frame", "checked_size", "welch_bound"]

_GRAM_ROWS = 1024  # rows of the Gram matrix held at once: 8 MB per 1,000 classes


class Coherence(NamedTuple):
    """How close the closest two class vectors are.

    Attributes:
        max_cosine: Largest signed cosine between two different class vectors; what a classifier feels.
        max_abs_cosine: Largest absolute cosine, the coherence of coding theory.
        welch: Welch's lower bound on ``max_abs_cosine``, sqrt((K - d) / (d (K - 1))), 0 for K <= d.
    """

    max_cosine: float
    max_abs_cosine: float
    welch: float


def welch_bound(num_classes: int, in_features: int) -> float:
    """Least possible coherence of K unit vectors in R^d, sqrt((K - d) / (d (K - 1))), 0 for K <= d.

    Welch, "Lower bounds on the maximum cross correlation of signals", IEEE Trans. Inf. Theory 20, 1974.

    >>> welch_bound(4, 3)  # the tetrahedron attains it
    0.3333333333333333
    """
    K, d = num_classes, in_features
    return math.sqrt(max(0.0, (K - d) / (d * (K - 1))))


def checked_size(argument: str, value: Any, least: int) -> int:
    """An integer (also NumPy's) of at least ``least``, or a ValueError that names the argument."""
    try:
        size = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        size = least - 1
    if size < least:
        raise ValueError(f"{argument}={value!r}: expected an integer >= {least}")
    return size


class Frame(ABC):
    """K class vectors in R^d, known before training.

    A frame is pure geometry: it holds sizes and a seed, builds its tensors in float64 on the CPU when
    asked, and never touches a global random state. Subclasses give :meth:`matrix` and :meth:`spec`; those
    with structure also override :meth:`factors` and :meth:`apply` so that the (K, d) matrix is never built.

    Args:
        num_classes: K, at least 2.
        in_features: d, the width of the features.
    """

    name: ClassVar[str]

    def __init__(self, num_classes: int, in_features: int) -> None:
        self.num_classes = checked_size("num_classes", num_classes, 2)
        self.in_features = checked_size("in_features", in_features, 1)

    @abstractmethod
    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, CPU. The definition of the frame."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able description; ``make_frame(**spec)`` builds the same frame again."""

    @property
    def structured(self) -> bool:
        """Whether :meth:`apply` works without the (K, d) matrix."""
        return False

    @property
    def active_features(self) -> int:
        """How many of the d features the logits depend on."""
        return self.in_features

    def factors(self) -> dict[str, Tensor]:
        """Float64 tensors that :meth:`apply` needs; a head keeps them as buffers of its own type."""
        return {"weight": self.matrix()}

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Inner products of features (..., d) with every class vector, (..., K), from given factors."""
        return torch.nn.functional.linear(features, factors["weight"])

    def logits(self, features: Tensor) -> Tensor:
        """``features @ matrix().T`` by the fast path, in the features' type and on their device.

        Args:
            features: (..., d).

        Returns:
            Tensor: (..., K).
        """
        if features.shape[-1] != self.in_features:
            raise ValueError(
                f"features: expected a last dimension of {self.in_features}, got {features.shape[-1]}"
            )
        return self.apply(features, {k: v.to(features) for k, v in self.factors().items()})

    def coherence(self) -> Coherence:
        """Largest cosine between two class vectors, with the Welch bound beside it."""
        unit = torch.nn.functional.normalize(self.matrix(), dim=1)
        signed, absolute = -math.inf, 0.0
        for start in range(0, self.num_classes, _GRAM_ROWS):
            gram = unit[start : start + _GRAM_ROWS] @ unit.T
            rows = torch.arange(len(gram), device="cpu")
            gram[rows, rows + start] = -math.inf
            signed = max(signed, gram.max().item())
            gram[rows, rows + start] = 0.0
            absolute = max(absolute, gram.abs().max().item())
        return Coherence(signed, absolute, welch_bound(self.num_classes, self.in_features))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(tuple(sorted((k, str(v)) for k, v in self.spec().items())))

    def __repr__(self) -> str:
        spec = self.spec()
        return f"{spec.pop('name')}({', '.join(f'{k}={v}' for k, v in spec.items())})"
