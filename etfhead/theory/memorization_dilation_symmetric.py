"""The memorization-dilation model where the two classes mirror each other: four numbers and no constraint."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etfhead.theory.memorization_dilation_limits import clean_point, strong_coupling_rate
from etfhead.theory.memorization_dilation_model import DilationModel, DilationSolution
from etfhead.theory.minimise import Minimum

__all__ = ["solve_symmetric", "symmetric_risk"]

_NEWTON_STEPS = 10
_INSIDE = 1e-3  # a feature at exactly zero would stay there


def symmetric_risk(model: DilationModel, features: Tensor, gain: Tensor) -> Tensor:
    """The risk at h_1 = (p, 0), u_1 = (x, y), w_1 = -w_2 = s (1, -1)/2 and their mirror images.

    The radius r is the least that is allowed, so that no constraint is left.

    Args:
        model: The model.
        features: p, x and y, (3,).
        gain: s, a scalar; with a fixed head its own.

    Returns:
        Tensor: A scalar.
    """
    p, x, y = features
    dilation = _least_dilation(model, features)
    nodes, weights = model.quadrature

    def entropy(gaps: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-gaps) + model.label_smoothing / 2 * gaps

    # ||w_1 - w_2|| is sqrt(2) s.
    clean = entropy(gain * p + math.sqrt(2) * gain * dilation * nodes) @ weights
    noisy = entropy(gain * (x - y)) + model.lambda_h * (x.square() + y.square())
    risk = 2 * (clean + model.lambda_h * p.square() + model.noise * noisy)
    if model.lambda_w is not None:
        risk = risk + model.lambda_w * gain.square()
    return risk + 2 * model.lambda_h * dilation.square() if model.decay_dilation else risk


def solve_symmetric(model: DilationModel) -> DilationSolution:
    """The symmetric minimum that belongs to the two closed forms, from a guess between them.

    Other minima exist where the network is little expressive: classes merge, so that dilation costs nothing.
    A trust region with exact Hessians, then Newton steps as long as they lower the gradient.
    """
    from scipy.optimize import minimize

    def risk(x: Tensor) -> Tensor:
        # Features are squares, so that they are not negative and there are no bounds.
        return symmetric_risk(model, x[:3].square(), x[3] if model.lambda_w is not None else fixed)

    def value_and_gradient(x: object) -> tuple[float, object]:
        point = torch.tensor(x, requires_grad=True)
        value = risk(point)
        (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient.numpy()

    def hessian(x: object) -> Tensor:
        return torch.autograd.functional.hessian(risk, torch.tensor(x))

    features, fixed = _guess(model)
    start = features.sqrt() if model.lambda_w is None else torch.cat([features.sqrt(), fixed[None]])
    end = minimize(
        value_and_gradient,
        start.numpy(),
        jac=True,
        hess=lambda x: hessian(x).numpy(),
        method="trust-exact",
        options={"gtol": 1e-9, "maxiter": 200},
    )
    x, evaluations = torch.tensor(end.x), end.nfev
    gradient = torch.tensor(value_and_gradient(x.numpy())[1])
    for _ in range(_NEWTON_STEPS):
        ahead = x - torch.linalg.lstsq(hessian(x.numpy()), gradient).solution
        ahead_gradient = torch.tensor(value_and_gradient(ahead.numpy())[1])
        evaluations += 1
        if not ahead_gradient.norm() < gradient.norm():
            break
        x, gradient = ahead, ahead_gradient
    p, a, b = features = x[:3].square()
    zero = torch.zeros_like(p)
    point = {
        "means": torch.stack([p, zero, zero, p]).view(2, 2),
        "noisy": torch.stack([a, b, b, a]).view(2, 2),
        "dilation": _least_dilation(model, features),
    }
    minimum = Minimum(point, risk(x).item(), gradient.abs().max().item(), 1, 1, evaluations)
    return DilationSolution(model, minimum)


def _least_dilation(model: DilationModel, features: Tensor) -> Tensor:
    p, x, y = features
    memorization = ((p - y).square() + x.square()).sqrt()
    return model.noise * memorization * math.sqrt(2) * p / model.coupling


def _guess(model: DilationModel) -> tuple[Tensor, Tensor]:
    """Features (p, x, y) and gain, with u_1 as far on its way from h_2 to h_1 as C lets it."""
    blurred = clean_point(model, mixed=model.noise)
    reached = 1.0
    if blurred.norm > 0:
        memorization = model.coupling**2 * strong_coupling_rate(model) / model.noise
        reached = min(1.0, memorization / (math.sqrt(2) * blurred.norm))
    p, s = clean_point(model, mixed=model.noise * (1 - reached))
    # Also where the classes collapse in both limits.
    p, s = max(p, _INSIDE), max(s, _INSIDE)
    features = torch.tensor([p, reached * p, (1 - reached) * p], dtype=torch.float64) + _INSIDE * p
    return features, torch.tensor(s, dtype=torch.float64)
