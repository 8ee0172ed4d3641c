"""A frame whose vectors are handed out to the classes in another order, and turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import Frame
from etfhead.frames.coherence import Coherence

__all__ = ["AssignedFrame"]

_ORTHOGONAL = 1e-6  # float32 rounding of the rotation moves its Gram matrix by less


class AssignedFrame(Frame):
    r"""Class k has vector a(k) of a base frame, turned by R: m_k = b_{a(k)} R.

    The logits are those of the base frame for the features h R^T, in another order: what is structured stays
    structured, for d^2 numbers and operations a sample (none without a rotation) and one gather. Streaming
    works in the base frame's order; :meth:`stored_index` tells a class's place in it. Over a dense base
    frame the product is one dense matrix, in class order.

    :func:`assign_classes` chooses a and R by the similarity of class means.

    Args:
        num_classes: K.
        in_features: d.
        base: A frame of these sizes that its spec describes fully, or that spec.
        assignment: (K,) integers, a permutation of 0..K-1.
        rotation: R, (d, d) orthogonal; None for the identity.

    Raises:
        ValueError: If the base has other sizes or holds data of its own, ``assignment`` is no permutation, or
            ``rotation`` is not orthogonal to 1e-6.

    >>> from etfhead.frames import SimplexFrame
    >>> frame = AssignedFrame(3, 4, base=SimplexFrame(3, 4), assignment=torch.tensor([2, 0, 1]))
    >>> bool((frame.matrix()[0] == SimplexFrame(3, 4).matrix()[2]).all())
    True
    """

    name = "assigned"

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        *,
        base: Frame | Mapping[str, Any],
        assignment: Tensor | Sequence[int],
        rotation: Tensor | None = None,
    ) -> None:
        super().__init__(num_classes, in_features)
        if not isinstance(base, Frame):
            from etfhead.frames.registry import make_frame  # the registry lists this module's class

            base = make_frame(**base)
        K, d = self.num_classes, self.in_features
        if (base.num_classes, base.in_features) != (K, d):
            raise ValueError(
                f"base: expected a frame of {K} classes and {d} features, got {base.num_classes} and "
                f"{base.in_features}"
            )
        if not base.free_of_data:
            raise ValueError(
                f"base={base.name!r}: expected a closed-form frame; this one has a state of its own"
            )
        self.base = base
        self.assignment = _checked_permutation(assignment, K)
        self.rotation = None if rotation is None else _checked_rotation(rotation, d)

    @property
    def structured(self) -> bool:
        """Whether the base frame is."""
        return self.base.structured

    @property
    def active_features(self) -> int:
        """All d with a rotation, the base frame's without."""
        return self.base.active_features if self.rotation is None else self.in_features

    @property
    def max_norm(self) -> float:
        """The base frame's."""
        return self.base.max_norm

    @property
    def block_size(self) -> int:
        """The base frame's, where it is structured."""
        return self.base.block_size if self.structured else 1

    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, CPU."""
        matrix = self.base.matrix()[self.assignment]
        return matrix if self.rotation is None else matrix @ self.rotation

    def factors(self) -> dict[str, Tensor]:
        """The base frame's, ``assignment`` (int64, to be kept so) and ``rotation``; ``weight`` if dense."""
        if not self.structured:
            return super().factors()
        return {**self.base.factors(), **self.state()}

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Inner products of features (..., d) with every class vector, (..., K)."""
        if not self.structured:
            return super().apply(features, factors)
        logits = self.base.apply(self._turned(features, factors), factors)
        return logits.index_select(-1, factors["assignment"])

    def enter(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Turn features (..., d) into the base frame's axes, and what that does itself."""
        if not self.structured:
            return features
        return self.base.enter(self._turned(features, factors), factors)

    def block_logits(self, x: Tensor, factors: dict[str, Tensor], start: int, stop: int) -> Tensor:
        """Inner products (..., stop - start) with the base frame's vectors start..stop - 1."""
        if not self.structured:
            return super().block_logits(x, factors, start, stop)
        return self.base.block_logits(x, factors, start, stop)

    def block_adjoint(
        self, coefficients: Tensor, factors: dict[str, Tensor], start: int, stop: int
    ) -> Tensor:
        """Transpose of :meth:`block_logits`: coefficients (..., stop - start) to (..., d)."""
        if not self.structured:
            return super().block_adjoint(coefficients, factors, start, stop)
        return self.base.block_adjoint(coefficients, factors, start, stop)

    @property
    def writes_blocks(self) -> bool:
        """Whether the base frame does."""
        return self.base.writes_blocks if self.structured else True

    def written_block(self, factors: dict[str, Tensor], start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The base frame's vectors start..stop - 1, (stop - start, d)."""
        if not self.structured:
            return super().written_block(factors, start, stop, dtype)
        return self.base.written_block(factors, start, stop, dtype)

    def stored_vectors(self, index: Tensor, factors: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The base frame's vectors at ``index`` (N,), (N, d)."""
        if not self.structured:
            return super().stored_vectors(index, factors, dtype)
        return self.base.stored_vectors(index, factors, dtype)

    def leave(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Transpose of :meth:`enter`: (..., d) to (..., d)."""
        if not self.structured:
            return x
        x = self.base.leave(x, factors)
        return x if self.rotation is None else torch.matmul(x, factors["rotation"])

    def stored_index(self, target: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Which of the base frame's vectors each class of ``target`` has."""
        return self.base.stored_index(factors["assignment"][target], factors) if self.structured else target

    def coherence(self) -> Coherence:
        """The base frame's: neither order nor rotation changes it."""
        return self.base.coherence()

    def state(self) -> dict[str, Tensor]:
        """``assignment`` (K,) int64, and ``rotation`` (d, d) float64 where there is one."""
        state = {"assignment": self.assignment.clone()}
        return state if self.rotation is None else {**state, "rotation": self.rotation.clone()}

    def spec(self) -> dict[str, Any]:
        """JSON-able description: sizes and base; what comes from data is in :meth:`state`."""
        return {**super().spec(), "base": self.base.spec()}

    def _turned(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        if self.rotation is None:
            return features
        return torch.nn.functional.linear(features, factors["rotation"])


def _checked_permutation(assignment: Tensor | Sequence[int], size: int) -> Tensor:
    given = torch.as_tensor(assignment, device="cpu")
    if given.is_floating_point() or given.dtype == torch.bool:
        raise ValueError(f"assignment: expected integers, got {given.dtype}")
    given = given.long().clone()
    if tuple(given.shape) != (size,):
        raise ValueError(f"assignment: expected shape ({size},), got {tuple(given.shape)}")
    if not torch.equal(given.sort().values, torch.arange(size, device="cpu")):
        raise ValueError(f"assignment: expected each of 0..{size - 1} exactly once, one vector a class")
    return given


def _checked_rotation(rotation: Tensor, size: int) -> Tensor:
    if tuple(rotation.shape) != (size, size):
        raise ValueError(f"rotation: expected shape {(size, size)}, got {tuple(rotation.shape)}")
    rotation = rotation.detach().to("cpu").to(torch.float64, copy=True).contiguous()
    eye = torch.eye(size, dtype=torch.float64, device="cpu")
    off = (rotation @ rotation.T - eye).abs().max().item()
    if not off <= _ORTHOGONAL:  # NaN too
        raise ValueError(f"rotation: expected R R^T = I, got entries up to {off:.2g} from it")
    return rotation
