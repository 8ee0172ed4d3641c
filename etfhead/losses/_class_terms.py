"""Functions of log-probabilities whose sums over the classes losses are made of, and their derivatives."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

__all__ = ["Best", "Entropy", "Focal", "Gap", "Log", "Mixed", "Square", "Term", "Weighed"]


class Term(abc.ABC):
    """A sum over the classes of a function of each log-probability.

    :meth:`values` and :meth:`derivative` say what it is, in operations that autograd knows; :meth:`sums` and
    :meth:`slope` are the same in the fewest passes over (B, K), and may write into what they allocate.
    """

    of_p = False  # whether it needs the probabilities
    of_log_p = True  # whether it needs their logarithms
    recalls_log_p = False  # whether slope does too
    linear = False  # whether logits do for log-probabilities, but for what they are larger, K times

    @abc.abstractmethod
    def values(self, log_p: Tensor) -> Tensor:
        """What is summed over the classes, (B, K) or (B, 1)."""

    @abc.abstractmethod
    def derivative(self, log_p: Tensor) -> Tensor:
        """Its derivative by the log-probabilities, (B, K) or (B, 1)."""

    @abc.abstractmethod
    def sums(self, log_p: Tensor, p: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        """The sums (B,), and what else :meth:`slope` needs, (B, K)."""

    @abc.abstractmethod
    def slope(self, log_p: Tensor, p: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
        """The derivative times a gradient (B, 1), in a new tensor, or (B, 1) the same for all classes.

        A term of the probabilities may leave out multiples of them, which the softmax takes away.
        """


class Log(Term):
    """Log-probabilities."""

    of_log_p = False
    linear = True

    def values(self, log_p: Tensor) -> Tensor:
        return log_p

    def derivative(self, log_p: Tensor) -> Tensor:
        return log_p.new_ones(len(log_p), 1)

    def sums(self, log_p: Tensor, p: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        return log_p.sum(1), None

    def slope(self, log_p: Tensor, p: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
        return grad


class Gap(Term):
    """How far log-probabilities are above a floor; 0 below it."""

    recalls_log_p = True

    def __init__(self, floor: float) -> None:
        self.floor = floor

    def values(self, log_p: Tensor) -> Tensor:
        return (log_p - self.floor).relu()

    def derivative(self, log_p: Tensor) -> Tensor:
        return (log_p > self.floor).to(log_p.dtype)

    def sums(self, log_p: Tensor, p: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        return (log_p - self.floor).relu_().sum(1), None

    def slope(self, log_p: Tensor, p: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
        return _above(log_p, self.floor, grad)


class Best(Term):
    """The largest log-probability; its gradient is shared if several are."""

    recalls_log_p = True

    def values(self, log_p: Tensor) -> Tensor:
        return log_p.amax(1, keepdim=True)

    def derivative(self, log_p: Tensor) -> Tensor:
        largest = (log_p == log_p.amax(1, keepdim=True)).to(log_p.dtype)
        return largest / largest.sum(1, keepdim=True)

    def sums(self, log_p: Tensor, p: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        return log_p.amax(1), None

    def slope(self, log_p: Tensor, p: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
        below = log_p - log_p.amax(1, keepdim=True)
        largest = _above(below, -torch.finfo(below.dtype).tiny, torch.ones_like(grad))
        return largest.mul_(grad / largest.sum(1, keepdim=True))


class Square(Term):
    """Squares of the probabilities."""

    of_p = True
    of_log_p = False

    def values(self, log_p: Tensor) -> Tensor:
        return torch.exp(2.0 * log_p)

    def derivative(self, log_p: Tensor) -> Tensor:
        return 2.0 * torch.exp(2.0 * log_p)

    def sums(self, log_p: Tensor, p: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        return torch.linalg.vector_norm(p, dim=1).square_(), None

    def slope(self, log_p: Tensor, p: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
        return p.square().mul_(2.0 * grad)


class Entropy(Term):
    """p log p."""

    of_p = True

    def values(self, log_p: Tensor) -> Tensor:
        return log_p.exp() * log_p

    def derivative(self, log_p: Tensor) -> Tensor:
        return log_p.exp() * (log_p + 1.0)

    def sums(self, log_p: Tensor, p: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        parts = p * log_p
        return parts.sum(1), parts if keep else None

    def slope(self, log_p: Tensor, p: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
        return kept * grad  # and p * grad, which the softmax takes away


class Weighed(Term):
    """Log-probabilities times numbers (B, K)."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def values(self, log_p: Tensor) -> Tensor:
        return self.weights * log_p

    def derivative(self, log_p: Tensor) -> Tensor:
        return self.weights

    def sums(self, log_p: Tensor, p: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        return (self.weights * log_p).sum(1), None

    def slope(self, log_p: Tensor, p: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
        return self.weights * grad


class Mixed(Term):
    """Probabilities times the rows of a matrix that an index picks."""

    of_p = True
    of_log_p = False

    def __init__(self, matrix: Tensor, index: Tensor) -> None:
        self.matrix, self.index = matrix, index

    def values(self, log_p: Tensor) -> Tensor:
        return self.matrix.index_select(0, self.index) * log_p.exp()

    def derivative(self, log_p: Tensor) -> Tensor:
        return self.values(log_p)

    def sums(self, log_p: Tensor, p: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        parts = self.matrix.index_select(0, self.index).mul_(p)
        return parts.sum(1), parts if keep else None

    def slope(self, log_p: Tensor, p: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
        return kept * grad


class Focal(Term):
    """(1 - p)^gamma log p, plus a constant; p clamped at the exponential of a floor."""

    of_p = True

    def __init__(self, gamma: float, floor: float = -math.inf, shift: float = 0.0) -> None:
        self.gamma, self.floor, self.shift = gamma, floor, shift

    def values(self, log_p: Tensor) -> Tensor:
        return focal(log_p.clamp(min=self.floor), self.gamma) + self.shift

    def derivative(self, log_p: Tensor) -> Tensor:
        p = log_p.exp()
        rest = _rest(p)
        slope = rest.pow(self.gamma) - self.gamma * p * log_p * rest.pow(self.gamma - 1.0)
        return torch.where(log_p > self.floor, slope, 0.0)

    def sums(self, log_p: Tensor, p: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        clamps = self.floor > -math.inf
        inside = log_p.clamp(min=self.floor) if clamps else log_p
        rest = _rest(p.clamp(min=math.exp(self.floor)) if clamps else p)
        if self.gamma == 0.5:  # what is published; of these roots one is enough
            inverse = rest.rsqrt()
            weight = rest.mul_(inverse)
        else:
            weight = rest.pow(self.gamma)
            inverse = weight / rest
        parts = weight * inside
        sums = parts.add_(self.shift).sum(1) if self.shift else parts.sum(1)
        if not keep:
            return sums, None
        slope = weight.addcmul_(inverse.mul_(p), log_p, value=-self.gamma)
        return sums, _above(log_p, self.floor, slope) if clamps else slope

    def slope(self, log_p: Tensor, p: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
        return kept * grad


def focal(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma log p, elementwise."""
    return _rest(log_p.exp()).pow(gamma) * log_p if gamma else log_p


def _rest(p: Tensor) -> Tensor:
    # At p = 1 the power of 0 has an infinite slope for gamma < 1, and the product has none. expm1 would keep
    # digits of an addend that vanishes, at ten times the time of exp.
    return (1.0 - p).clamp_(min=0.5 * torch.finfo(p.dtype).eps)


def _above(x: Tensor, bound: float, values: Tensor) -> Tensor:
    """Values (B, K) or (B, 1) where x > bound, 0 else, in one pass."""
    result: Tensor = torch.ops.aten.threshold_backward(values.expand_as(x), x, bound)
    return result
