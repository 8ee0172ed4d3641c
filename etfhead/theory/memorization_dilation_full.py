"""The memorization-dilation model as it stands: every variable, its bounds and its constraints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from etfhead.theory.memorization_dilation_model import DilationModel, DilationSolution
from etfhead.theory.minimise import Minimum

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FullProblem", "solve_full"]

_BOUNDED = 9  # h, u and r cannot be negative; they come first
_SAME_RISK = 1e-9


class FullProblem:
    """Risk and constraints of one vector (h_1, h_2, u_1, u_2, r, W), with their slopes.

    By hand and without torch: a second opinion on the symmetric risk, which shares only the quadrature.
    """

    def __init__(self, model: DilationModel) -> None:
        self.model, self.learned = model, model.lambda_w is not None
        self.size = _BOUNDED + (4 if self.learned else 0)
        self._nodes, self._weights = (part.numpy() for part in model.quadrature)

    def risk(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """R and its gradient."""
        import numpy as np
        from scipy.special import expit

        model, sign = self.model, np.array([1.0, -1.0])
        h, u, r = x[:4].reshape(2, 2), x[4:8].reshape(2, 2), x[8]
        W = x[9:].reshape(2, 2) if self.learned else model.fixed_gain / 2 * np.array([[1, -1], [-1, 1]])
        apart = W[0] - W[1]
        length = math.sqrt(apart @ apart)
        clean = (sign * (h @ apart))[:, None] + r * length * self._nodes
        noisy = sign * (u @ apart)

        def entropy(gaps: np.ndarray) -> np.ndarray:
            return np.logaddexp(0.0, -gaps) + model.label_smoothing / 2 * gaps

        def slope(gaps: np.ndarray) -> np.ndarray:
            return model.label_smoothing / 2 - expit(-gaps)

        eta, decay = model.noise, model.lambda_h
        value = (entropy(clean) @ self._weights).sum() + decay * (h * h).sum()
        value += eta * (entropy(noisy).sum() + decay * (u * u).sum())
        clean_slope, noisy_slope = sign * (slope(clean) @ self._weights), eta * sign * slope(noisy)
        length_slope = (slope(clean) @ (self._weights * self._nodes)).sum()
        gradient = np.empty_like(x)
        gradient[:4] = (clean_slope[:, None] * apart + 2 * decay * h).ravel()
        gradient[4:8] = (noisy_slope[:, None] * apart + 2 * eta * decay * u).ravel()
        gradient[8] = length_slope * length
        if model.decay_dilation:
            value += 2 * decay * r * r
            gradient[8] += 4 * decay * r
        if model.lambda_w is not None:
            value += model.lambda_w * (W * W).sum()
            along = clean_slope @ h + noisy_slope @ u + length_slope * r * apart / length
            gradient[9:] = (np.stack([along, -along]) + 2 * model.lambda_w * W).ravel()
        return float(value), gradient

    def slack(self, x: np.ndarray) -> np.ndarray:
        """C r - eta ||h_n' - u_n|| ||h_1 - h_2||, (2,): not below zero."""
        distances, separation = self._distances(x)
        return self.model.coupling * x[8] - self.model.noise * distances * separation

    def slack_slopes(self, x: np.ndarray) -> np.ndarray:
        """Gradient of each of them, (2, size)."""
        import numpy as np

        h, u = x[:4].reshape(2, 2), x[4:8].reshape(2, 2)
        distances, separation = self._distances(x)
        memorised = (h[::-1] - u) / distances[:, None] * separation
        separated = (h[0] - h[1]) / separation * distances[:, None]
        slopes = np.zeros((2, 2, 2))  # constraint, row of h, coordinate
        slopes[0, 1], slopes[1, 0] = memorised
        slopes[:, 0] += separated
        slopes[:, 1] -= separated
        rows = np.zeros((2, self.size))
        rows[:, :4] = slopes.reshape(2, 4)
        rows[0, 4:6], rows[1, 6:8] = -memorised
        rows *= -self.model.noise
        rows[:, 8] = self.model.coupling
        return rows

    def _distances(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        import numpy as np

        h, u = x[:4].reshape(2, 2), x[4:8].reshape(2, 2)
        return np.linalg.norm(h[::-1] - u, axis=1), float(np.linalg.norm(h[0] - h[1]))


def solve_full(model: DilationModel, seed: int, *, starts: int = 3) -> DilationSolution:
    """Minimise the whole constrained problem from random starts (SLSQP); no symmetry is assumed.

    The minimum's ``gradient`` is what no non-negative multipliers of bounds and constraints explain of it.
    """
    import numpy as np
    from scipy.optimize import minimize, nnls

    problem, generator, ends = FullProblem(model), torch.Generator().manual_seed(seed), []
    for _ in range(starts):
        start = torch.randn(problem.size, generator=generator, dtype=torch.float64)
        start[:_BOUNDED] = start[:_BOUNDED].abs()
        end = minimize(
            problem.risk,
            start.numpy(),
            jac=True,
            bounds=[(0.0, None)] * _BOUNDED + [(None, None)] * (problem.size - _BOUNDED),
            constraints={"type": "ineq", "fun": problem.slack, "jac": problem.slack_slopes},
            method="SLSQP",
            options={"maxiter": 1000, "ftol": 1e-13},
        )
        if problem.slack(end.x).min() > -1e-9:
            ends.append(end)
    if not ends:
        nothing = torch.full((2, 2), math.nan, dtype=torch.float64)
        point = {"means": nothing, "noisy": nothing, "dilation": nothing[0, 0]}
        return DilationSolution(model, Minimum(point, math.nan, math.nan, starts, 0, 0))
    best = min(ends, key=lambda end: (math.isnan(end.fun), end.fun))
    gradient = problem.risk(best.x)[1]
    at_zero = np.eye(problem.size)[:_BOUNDED][best.x[:_BOUNDED] <= 1e-9]
    explaining = np.concatenate([problem.slack_slopes(best.x), at_zero]).T
    unexplained = gradient - explaining @ nnls(explaining, gradient)[0]
    x = torch.from_numpy(best.x)
    return DilationSolution(
        model,
        Minimum(
            {"means": x[:4].view(2, 2), "noisy": x[4:8].view(2, 2), "dilation": x[8]},
            float(best.fun),
            float(np.abs(unexplained).max()),
            starts,
            sum(bool(end.fun - best.fun <= _SAME_RISK) for end in ends),
            sum(end.nfev for end in ends),
        ),
    )
