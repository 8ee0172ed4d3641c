r"""Multivariate regression with decay: features in n directions, and W from the covariance of the targets.

Neural regression collapse (Andriopoulos et al., NeurIPS 2024, arXiv 2409.04180) for unconstrained features,
with the spectral positive part that holds in any basis. With c = lw lh and Sigma the covariance of the
targets, a global minimum has

.. math::
    W W^\top = \sqrt{\lambda_H / \lambda_W}\,[\Sigma^{1/2} - \sqrt{c}\, I]_+, \qquad
    H = \sqrt{\lambda_W / \lambda_H}\, W^\top \Sigma^{-1/2} (Y - \bar Y), \qquad b = \bar y

and residuals that are white, of variance c, in every direction that is fitted at all.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from etfhead.frames.ufm import spectral_map, ufm_gram
from etfhead.theory.regression_model import RegressionModel, RegressionSolution, drawn_targets
from etfhead.theory.result import Case, CaseResult, Check, Finding, Theorem

__all__ = ["THEOREM"]

_CLEARLY = 0.01  # NRC1 of features that have not collapsed is above it


def _covariance(spread: tuple[float, ...], correlation: float = 0.0) -> Tensor:
    """Standard deviations, and one correlation for every pair of targets."""
    scale = torch.tensor(spread, dtype=torch.float64)
    pattern = torch.full((len(spread), len(spread)), correlation, dtype=torch.float64)
    return pattern.fill_diagonal_(1.0) * torch.outer(scale, scale)


def _drawn(
    spread: tuple[float, ...],
    in_features: int,
    lambda_w: float,
    lambda_h: float,
    *,
    correlation: float = 0.0,
    samples: int = 10,
    bias: bool = True,
    mean_over_targets: bool = False,
) -> RegressionModel:
    targets = drawn_targets(_covariance(spread, correlation), samples)
    return RegressionModel(targets, in_features, lambda_w, lambda_h, bias, mean_over_targets)


def _one_hot(counts: tuple[int, ...], in_features: int, bias: bool) -> RegressionModel:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    targets = torch.eye(len(counts), dtype=torch.float64)[labels]
    return RegressionModel(targets, in_features, 0.05, 0.02, bias)


_CORRELATED = _drawn((1.0, 0.8, 0.5), 6, 0.02, 0.01, correlation=0.4)
_MODELS = {
    "uncorrelated": _drawn((1.0, 0.8, 0.5), 6, 0.01, 0.01),
    "correlated": _CORRELATED,
    "d = n": _drawn((1.0, 0.6), 2, 0.01, 0.03, correlation=-0.5),
    "one target": _drawn((0.7,), 4, 0.02, 0.05),
    "unequal scales": _drawn((5.0, 1.0, 0.3), 5, 0.01, 0.002, correlation=0.2),
    "no bias": _drawn((1.0, 0.8, 0.5), 5, 0.02, 0.01, correlation=0.4, bias=False),
    "2 of 3 variances above c": _drawn((1.0, 0.8, 0.2), 5, 0.4, 0.3, correlation=0.3),
    "1 of 4 variances above c": _drawn((1.0, 0.3, 0.4, 0.2), 6, 0.5, 0.5, correlation=0.1),
    "d < n": _drawn((1.0, 0.8, 0.5), 2, 0.02, 0.01, correlation=0.4),
    "mean over targets (mse_loss / 2)": replace(_CORRELATED, mean_over_targets=True),
    "one-hot 6/3/2": _one_hot((6, 3, 2), 4, bias=True),
    "one-hot 6/3/2, no bias": _one_hot((6, 3, 2), 4, bias=False),
}
_ABOVE = {
    "c above every variance": _drawn((1.0, 0.8, 0.5), 5, 1.7, 1.2, correlation=0.3),
    "c above the variance, one target": _drawn((0.7,), 3, 0.6, 0.9),
}
_WITHOUT_DECAY = {
    "no decay": _drawn((1.0, 0.8, 0.5), 7, 0.0, 0.0, correlation=0.4),
    "no decay, no bias": _drawn((1.0, 0.8), 5, 0.0, 0.0, bias=False),
}
_BEHIND_RELU = {
    "ReLU features, n=1": replace(_drawn((0.7,), 4, 0.02, 0.05), non_negative=True),
    "ReLU features, n=2": replace(_drawn((0.8, 0.6), 4, 0.02, 0.03, correlation=0.3), non_negative=True),
}


def _name(what: str, model: RegressionModel) -> str:
    sizes = f"n={model.num_targets} d={model.in_features} M={model.samples}"
    return f"{what}: {sizes} lw={model.lambda_w:g} lh={model.lambda_h:g}"


def _distance(found: Tensor, predicted: Tensor) -> float:
    return ((found - predicted).norm() / predicted.norm()).item()


def _collapsed_case(model: RegressionModel, tolerance: float, seed: int) -> CaseResult:
    solution = model.solve(seed)
    W, H, residual = solution.weight, solution.features, solution.residual
    rank = torch.linalg.matrix_rank(model.predicted_gram, hermitian=True, rtol=1e-10).item()
    balance = model.samples * model.lambda_w * W.square().sum() / (model.lambda_h * H.square().sum())
    offset, samples = residual - residual.mean(0) if model.bias else residual, model.samples
    distances = {
        "WW^T": _distance(W @ W.T, model.predicted_gram),
        "H of W": _distance(H, model.predicted_features(W)),
        "residual covariance": _distance(offset.T @ offset / samples, model.predicted_residual_covariance()),
    }
    if model.bias:
        distances["b = mean of y"] = _distance(solution.bias, model.mean)
        distances["NRC1"] = solution.nrc1()
    distances["NRC2"] = solution.nrc2()
    found_rank = torch.linalg.matrix_rank(W, rtol=1e-5).item()
    checks = (
        Check.of("loss", model.predicted_loss(), solution.minimum.loss, tolerance=tolerance),
        Check.of("rank of W", float(rank), float(found_rank), tolerance=tolerance),
        Check.of("M lw |W|^2 / (lh |H|^2)", 1.0, balance.item(), tolerance=tolerance),
        *(Check.vanishing(what, error, tolerance=tolerance) for what, error in distances.items()),
    )
    return CaseResult(solution.minimum, checks, _mean_trap(model))


def _mean_trap(model: RegressionModel) -> tuple[Finding, ...]:
    """How far off the closed form is when the mean over targets is forgotten."""
    if not model.mean_over_targets:
        return ()
    plain = ufm_gram(model.covariance, weight_decay=model.lambda_w, feature_decay=model.lambda_h)
    loss = replace(model, mean_over_targets=False).predicted_loss()
    return (
        Finding("WW^T off with c = lw lh", _distance(plain, model.predicted_gram)),
        Finding("loss off with c = lw lh", abs(loss / model.predicted_loss() - 1)),
    )


def _zero_case(model: RegressionModel, tolerance: float, seed: int) -> CaseResult:
    """Everything but the bias vanishes, measured against a perfect fit with balanced norms."""
    solution = model.solve(seed)
    gain = math.sqrt(model.lambda_h / model.lambda_w)
    energy = spectral_map(model.covariance, torch.sqrt).trace().item()
    weight = solution.weight.norm().item() / math.sqrt(gain * energy)
    features = solution.features.norm().item() / math.sqrt(model.samples * energy / gain)
    checks = (
        Check.of("loss", model.predicted_loss(), solution.minimum.loss, tolerance=tolerance),
        Check.vanishing("W", weight, tolerance=tolerance),
        Check.vanishing("H", features, tolerance=tolerance),
        Check.vanishing("b = mean of y", _distance(solution.bias, model.mean), tolerance=tolerance),
    )
    return CaseResult(solution.minimum, checks)


def _free_case(model: RegressionModel, tolerance: float, seed: int) -> CaseResult:
    """Without decay: a family of minima, from collapsed to anything but."""
    solution = model.solve(seed)
    W, fit = solution.weight, model.covariance.trace().item() / 2
    offset = solution.bias if model.bias else torch.zeros_like(model.mean)
    inverse = torch.linalg.pinv(W)
    inside = (model.targets - offset) @ inverse.T
    members = _members(solution, inside, inverse)
    losses = {
        t: model.loss({**solution.minimum.point, "features": member}).item() / fit
        for t, member in members.items()
    }
    found = solution.nrc1()
    checks = (
        Check.vanishing("loss", solution.minimum.loss / fit, tolerance=tolerance),
        Check.vanishing(
            "H on rows of W", _distance(solution.features @ inverse @ W, inside), tolerance=tolerance
        ),
        *(Check.vanishing(f"loss of H_{t}", loss, tolerance=tolerance) for t, loss in losses.items()),
        Check.vanishing("NRC2 of H_0", solution.nrc2(members[0]), tolerance=tolerance),
        Check.of(f"NRC1 > {_CLEARLY}", 1.0, float(found > _CLEARLY), tolerance=tolerance),
    )
    findings = (
        Finding("NRC1", found),
        Finding("NRC2", solution.nrc2()),
        *(Finding(f"NRC2 of H_{t}", solution.nrc2(member)) for t, member in members.items()),
    )
    return CaseResult(solution.minimum, checks, findings)


def _members(solution: RegressionSolution, inside: Tensor, inverse: Tensor) -> dict[int, Tensor]:
    """H_t = W^+ (Y - b) + t (I - W^+ W) Z, every one of them a minimum."""
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randn(inside.shape, generator=generator, dtype=torch.float64)
    outside = drawn - drawn @ inverse @ solution.weight
    outside *= inside.norm() / outside.norm()
    return {t: inside + t * outside for t in (0, 1, 10)}


def _relu_case(model: RegressionModel, tolerance: float, seed: int) -> CaseResult:
    """Features that cannot be negative: no theorem, and no collapse of this kind."""
    solution = model.solve(seed)
    return CaseResult(
        solution.minimum,
        findings=(
            Finding("lowest loss", solution.minimum.loss),
            Finding("signed features", model.predicted_loss()),
            Finding("NRC1, H >= 0", solution.nrc1()),
            Finding("NRC2, H >= 0", solution.nrc2()),
        ),
    )


def _cases() -> tuple[Case, ...]:
    groups = (
        (_MODELS, _collapsed_case),
        (_ABOVE, _zero_case),
        (_WITHOUT_DECAY, _free_case),
        (_BEHIND_RELU, _relu_case),
    )
    return tuple(
        Case(_name(what, model), partial(run, model))
        for models, run in groups
        for what, model in models.items()
    )


THEOREM = Theorem(
    title="Neural regression collapse: n directions, with weights from the covariance of the targets",
    source='Andriopoulos et al., "The Prevalence of Neural Collapse in Neural Multivariate Regression", '
    "NeurIPS 2024, arXiv 2409.04180",
    loss="1/(2M) sum_i |W h_i + b - y_i|^2 + lh/(2M) |H|^2 + lw/2 |W|^2, c = lw lh",
    cases=_cases(),
    notes=(
        "Sigma is the covariance of the M targets; without a bias it is taken about zero.",
        "The positive part is that of the eigenvalues: keeping columns of a root of Sigma is right only for "
        "uncorrelated targets.",
        "mse_loss is a mean over targets too: both decays are then n times as strong, and c is n^2 lw lh.",
        "One-hot targets: the same formula is neural collapse of classes under the squared error.",
        "Without decay every H_t = W^+ (Y - b) + t (I - W^+ W) Z is a minimum: nothing has to collapse.",
        "ReLU features (H >= 0) do not collapse this way. No theorem predicts these figures, and the best of "
        "three starts need not be the global minimum.",
    ),
)
