"""One float64 minimiser for every unconstrained-feature model: several starts, gradient down to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Minimum", "minimise"]

_Loss = Callable[[Mapping[str, Tensor]], Tensor]
_SAME_LOSS = 1e-9
_NEWTON_STEPS = 20
_ROUNDING = 1e-15


@dataclass(frozen=True)
class Minimum:
    """The lowest point found.

    Args:
        point: Every variable there, float64.
        loss: The lowest loss.
        gradient: Largest absolute entry of the gradient there.
        starts: How many random starts were made.
        agreeing: How many of them ended at this loss, within 1e-9 of it.
        evaluations: Losses and gradients computed, over all starts.
    """

    point: Mapping[str, Tensor]
    loss: float
    gradient: float
    starts: int
    agreeing: int
    evaluations: int


def minimise(
    loss: _Loss,
    shapes: Mapping[str, Sequence[int]],
    *,
    starts: int = 3,
    seed: int = 0,
    scale: float = 1.0,
    max_iterations: int = 20_000,
) -> Minimum:
    """Minimise a smooth loss over named tensors, from several random starts.

    L-BFGS (scipy) runs until the loss hardly falls; the gradient is then still near the square root of
    rounding, and figures read off the point have half their digits. Newton steps bring it down to rounding.
    MINRES solves them, because the Hessian of these models is singular along the rotations of feature space.

    Args:
        loss: Maps the variables to a scalar; twice differentiable.
        shapes: Name and shape of every variable.
        starts: Random starts; the lowest end counts.
        seed: Seed of the starts.
        scale: Standard deviation of the starts.
        max_iterations: Of L-BFGS, for each start.

    Returns:
        Minimum: The lowest point, its gradient, and how many starts reached it.

    Raises:
        ValueError: If ``starts`` or ``max_iterations`` is below 1, ``scale`` is not positive, or there are
            no variables.

    >>> found = minimise(lambda v: (v["x"] - 2).pow(2).sum() + v["x"].pow(4).sum(), {"x": (3,)})
    >>> found.agreeing, [round(x, 6) for x in found.point["x"].tolist()]
    (3, [0.835122, 0.835122, 0.835122])
    """
    if starts < 1 or max_iterations < 1:
        raise ValueError(f"starts={starts}, max_iterations={max_iterations}: both must be at least 1")
    if not (0 < scale < math.inf):
        raise ValueError(f"scale={scale}: must be a positive finite number")
    if not shapes:
        raise ValueError("shapes is empty: name at least one variable")
    problem = _Flat(loss, shapes)
    generator = torch.Generator().manual_seed(seed)
    ends = []
    for _ in range(starts):
        start = torch.randn(problem.size, generator=generator, dtype=torch.float64) * scale
        point = _newton(problem, _lbfgs(problem, start, max_iterations))
        value, gradient = problem(point)
        ends.append((value, gradient, point))
    # A start that ended in NaN must not hide another.
    lowest, gradient, point = min(ends, key=lambda end: (math.isnan(end[0]), end[0]))
    return Minimum(
        problem.named(point),
        lowest,
        gradient.abs().max().item(),
        starts,
        sum(value - lowest <= _SAME_LOSS * max(1.0, abs(lowest)) for value, _, _ in ends),
        problem.evaluations,
    )


class _Flat:
    """The loss of one vector, with its gradient and products with its Hessian."""

    def __init__(self, loss: _Loss, shapes: Mapping[str, Sequence[int]]) -> None:
        self._loss, self._shapes = loss, {name: tuple(shape) for name, shape in shapes.items()}
        self._sizes = [math.prod(shape) for shape in self._shapes.values()]
        self.size, self.evaluations = sum(self._sizes), 0

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split(self._sizes)
        return {
            name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def __call__(self, flat: Tensor) -> tuple[float, Tensor]:
        self.evaluations += 1
        point = flat.detach().requires_grad_()
        value = self._loss(self.named(point))
        (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient

    def hessian_at(self, flat: Tensor) -> Callable[[Tensor], Tensor]:
        point = flat.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self._loss(self.named(point)), point, create_graph=True)

        def product(vector: Tensor) -> Tensor:
            self.evaluations += 1
            (result,) = torch.autograd.grad(gradient, point, vector, retain_graph=True)
            return result

        return product


def _lbfgs(problem: _Flat, start: Tensor, max_iterations: int) -> Tensor:
    from scipy.optimize import minimize

    def value_and_gradient(x: object) -> tuple[float, object]:
        value, gradient = problem(torch.as_tensor(x))
        return value, gradient.numpy()

    # Its line search meets the strong Wolfe conditions. Newton is faster once the loss hardly falls.
    limits = {"maxiter": max_iterations, "maxfun": 2 * max_iterations}
    options = {"maxcor": 30, "ftol": 1e-10, "gtol": 1e-14, **limits}
    found = minimize(value_and_gradient, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.as_tensor(found.x)


def _newton(problem: _Flat, point: Tensor) -> Tensor:
    from scipy.sparse.linalg import LinearOperator, minres

    value, gradient = problem(point)
    for _ in range(_NEWTON_STEPS):
        if gradient.abs().max() <= _ROUNDING:
            break
        product = problem.hessian_at(point)
        operator = LinearOperator(
            (problem.size, problem.size),
            matvec=lambda v, product=product: product(torch.as_tensor(v).flatten().clone()).numpy(),
            dtype="float64",
        )
        step, _ = minres(operator, -gradient.numpy(), rtol=1e-8, maxiter=500)
        ahead = point + torch.as_tensor(step)
        ahead_value, ahead_gradient = problem(ahead)
        # Never uphill beyond rounding: a Newton step also likes saddles.
        uphill = ahead_value > value + 1e-13 * max(1.0, abs(value))
        if uphill or not ahead_gradient.norm() < 0.5 * gradient.norm():
            break
        point, value, gradient = ahead, ahead_value, ahead_gradient
    return point
