"""The one object everything follows from: K class vectors in R^d and a fast way to apply them."""

from __future__ import annotations

import operator
import weakref
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from etfhead.frames.coherence import Coherence, measured_coherence

__all__ = ["DENSE_BELOW", "Frame", "checked_seed", "checked_size"]

# Up to this many numbers in M, one dense product beats the several small ones of a fast basis
# (benchmarks/frame_logits), and 256 KiB of it are no burden. Part of the checkpoint format: a dense head
# stores its matrix, a structured one does not.
DENSE_BELOW = 2**16

_LARGEST_MATRIX = 2**31  # numbers a structured frame agrees to write out: 17 GB in float64

# A compiled graph holds tensors and numbers but no objects: it finds its frame here, by id().
frames_by_id: weakref.WeakValueDictionary[int, Frame] = weakref.WeakValueDictionary()


def checked_size(argument: str, value: Any, least: int) -> int:
    """An integer (also NumPy's) of at least ``least``, or a ValueError that names the argument."""
    try:
        size = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        size = least - 1
    if size < least:
        raise ValueError(f"{argument}={value!r}: expected an integer >= {least}")
    return size


def checked_seed(value: Any) -> int:
    """A seed that a torch.Generator takes, or a ValueError."""
    if (seed := checked_size("seed", value, 0)) >= 2**63:
        raise ValueError(f"seed={value!r}: expected an integer from 0 to 2**63 - 1")
    return seed


class Frame(ABC):
    """K class vectors in R^d, known before training.

    A frame is pure geometry: it holds sizes and a seed, builds its tensors in float64 on the CPU when
    asked, and never touches a global random state. Subclasses give :meth:`matrix` and :meth:`spec`; those
    with structure also override :meth:`factors`, :meth:`apply` and the four methods of streaming
    (:meth:`enter`, :meth:`block_logits`, :meth:`block_adjoint`, :meth:`leave`), so that the (K, d) matrix is
    never built; those that come from data or an optimiser give :meth:`state`.

    Streaming: with x = enter(h), block_logits(x, ..., start, stop) are the inner products with the stored
    vectors start..stop - 1, and leave(sum of block_adjoint(c[start:stop], ...)) is c times the stored matrix.
    Class k is the stored vector stored_index(k). Blocks start at multiples of :attr:`block_size` and stop at
    one or at K.

    Args:
        num_classes: K, at least 2.
        in_features: d, the width of the features.
    """

    name: ClassVar[str]
    least_classes: ClassVar[int] = 2  # a class needs another; a regression target does not

    def __init__(self, num_classes: int, in_features: int) -> None:
        self.num_classes = checked_size("num_classes", num_classes, self.least_classes)
        self.in_features = checked_size("in_features", in_features, 1)
        self._measured: Coherence | None = None
        frames_by_id[id(self)] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies and frames from a pickle do not pass through __init__.
        self.__dict__.update(state)
        frames_by_id[id(self)] = self

    @abstractmethod
    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, CPU. The definition of the frame."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able description; ``make_frame(**spec)`` builds the same frame again.

        Here name and sizes: a subclass adds what else it is built with.
        """
        return {"name": self.name, "num_classes": self.num_classes, "in_features": self.in_features}

    def state(self) -> dict[str, Tensor]:
        """Tensors that come from data or an optimiser; ``make_frame(**spec(), **state())`` builds it again.

        Empty for a closed form.
        """
        return {}

    @property
    def free_of_data(self) -> bool:
        """Whether :meth:`spec` alone says everything."""
        return not self.state()

    @property
    def structured(self) -> bool:
        """Whether :meth:`apply` works without the (K, d) matrix."""
        return False

    @property
    def active_features(self) -> int:
        """How many of the d features the logits depend on."""
        return self.in_features

    @property
    def max_norm(self) -> float:
        """Largest norm of a class vector; with it, features of norm r have logits of at most r max_norm."""
        return self.matrix().norm(dim=1).max().item()

    @property
    def block_size(self) -> int:
        """Blocks of classes start at multiples of it."""
        return 1

    def factors(self) -> dict[str, Tensor]:
        """Tensors that :meth:`apply` needs: float64, which a head casts to its own type, or integers."""
        return {"weight": self.matrix()}

    def apply(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Inner products of features (..., d) with every class vector, (..., K), from given factors."""
        return torch.nn.functional.linear(features, factors["weight"])

    def enter(self, features: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """The linear map of features (..., d) that all blocks share; (..., d)."""
        return features

    def block_logits(self, x: Tensor, factors: dict[str, Tensor], start: int, stop: int) -> Tensor:
        """Inner products (..., stop - start) of entered features with the stored vectors start..stop - 1."""
        return torch.nn.functional.linear(x, factors["weight"][start:stop])

    def block_adjoint(
        self, coefficients: Tensor, factors: dict[str, Tensor], start: int, stop: int
    ) -> Tensor:
        """Transpose of :meth:`block_logits`: coefficients (..., stop - start) to (..., d)."""
        return torch.matmul(coefficients, factors["weight"][start:stop])

    @property
    def writes_blocks(self) -> bool:
        """Whether :meth:`written_block` costs little more than to write what it returns."""
        return not self.structured

    def written_block(self, factors: dict[str, Tensor], start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The stored vectors start..stop - 1 themselves, (stop - start, d), where :attr:`writes_blocks`."""
        return factors["weight"][start:stop].to(dtype)

    def stored_vectors(self, index: Tensor, factors: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The stored vectors at ``index`` (N,), as entered features meet them: (N, d)."""
        if not self.structured:
            return factors["weight"][index].to(dtype)
        chosen = torch.zeros(len(index), self.num_classes, dtype=dtype, device=index.device)
        cast = {name: f.to(dtype) if f.is_floating_point() else f for name, f in factors.items()}
        return self.block_adjoint(chosen.scatter_(1, index[:, None], 1.0), cast, 0, self.num_classes)

    def leave(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Transpose of :meth:`enter`: (..., d) to (..., d)."""
        return x

    def stored_index(self, target: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """Which stored vector each class of ``target`` has."""
        return target

    def shifted_logits(self, features: Tensor, factors: dict[str, Tensor]) -> tuple[Tensor, float]:
        """Values (..., K) and a gain whose product is :meth:`apply` up to a number a sample.

        A softmax does not see what is added to all classes of a sample.
        """
        return self.apply(features, factors), 1.0

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
        factors = {
            name: factor.to(features) if factor.is_floating_point() else factor.to(features.device)
            for name, factor in self.factors().items()
        }
        return self.apply(features, factors)

    def coherence(self) -> Coherence:
        """Largest cosine between two class vectors, with the Welch bound beside it; measured once."""
        if self._measured is None:
            self._measured = measured_coherence(self.matrix())
        return self._measured

    def _refuse_large_matrix(self) -> None:
        if (numbers := self.num_classes * self.in_features) > _LARGEST_MATRIX:
            raise ValueError(
                f"matrix: {self.num_classes} x {self.in_features} numbers are {numbers * 8 / 1e9:.0f} GB in "
                "float64; this frame never needs them: use logits() for a few samples, or block_logits() and "
                "block_adjoint() for a range of classes"
            )

    def _check_block(self, start: int, stop: int) -> None:
        K, unit = self.num_classes, self.block_size
        if not 0 <= start < stop <= K or start % unit or (stop % unit and stop != K):
            raise ValueError(
                f"start={start}, stop={stop}: expected a range of classes from 0 to {K} that starts at a "
                f"multiple of block_size={unit} and stops at one or at {K}; take a wider one and cut the rest"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame) or self.spec() != other.spec():
            return False
        if self.free_of_data or self is other:
            return True
        mine, theirs = self.state(), other.state()
        return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)

    def __hash__(self) -> int:
        return hash(tuple(sorted((k, str(v)) for k, v in self.spec().items())))

    def __repr__(self) -> str:
        spec = self.spec()
        return f"{spec.pop('name')}({', '.join(f'{k}={v}' for k, v in spec.items())})"
