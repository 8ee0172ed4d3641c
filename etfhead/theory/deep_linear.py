r"""Linear layers over free features: a general orthogonal frame under the squared error, at any depth.

Neural collapse in deep linear networks (Dang et al., ICML 2023, arXiv 2301.00437), with the closed form of
`etfhead.frames.deep_linear`. Under cross-entropy the simplex ETF is the optimum of one layer, but not of many
in general: the orthoplex of K/2 directions, of lower rank, costs less, because depth makes a decay count
directions rather than lengths. With L factors (M layers and the features) and equal counts, logits of rank r
with equal singular values s cost

.. math:: \tfrac{L}{2} (\lambda_1 \cdots \lambda_L)^{1/L}\, r\, s^{2/L}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor

from etfhead.frames.deep_linear import deep_linear_geometry, deep_linear_loss
from etfhead.theory.deep_linear_model import DeepLinearModel, DeepLinearSolution
from etfhead.theory.result import Case, CaseResult, Check, Finding, Theorem

__all__ = ["THEOREM"]

_LW, _LH = 1e-2, 2e-2
_SQUARED = (
    DeepLinearModel((7, 4, 2, 1), 5, (_LW,), _LH),
    DeepLinearModel((9, 6, 3, 1), 4, (0.06,), 0.06),
    DeepLinearModel((3, 3, 3, 3), 6, (_LW,), _LH),
    DeepLinearModel((7, 4, 2, 1), 5, (_LW,), _LH, bias=True),
    DeepLinearModel((3, 3, 3, 3), 4, (_LW,), _LH, bias=True),
    DeepLinearModel((7, 4, 3, 2), 5, (4e-3, 8e-3), 6e-3),
    DeepLinearModel((9, 6, 4, 1), 4, (0.025, 0.025), 0.025),
    DeepLinearModel((7, 4, 3, 2), 5, (4e-3, 8e-3), 6e-3, bias=True),
    DeepLinearModel((7, 4, 3, 2), 5, (4e-3, 2e-3, 6e-3), 3e-3),
    DeepLinearModel((9, 6, 5, 1), 4, (0.015, 0.015, 0.015), 0.015),
    DeepLinearModel((3, 3, 3, 3), 4, (4e-3, 4e-3, 4e-3), 4e-3),
    DeepLinearModel((3, 3, 3, 3), 5, (4e-3, 4e-3, 4e-3), 4e-3, bias=True),
    DeepLinearModel((7, 4, 3, 2), 5, (4e-3, 2e-3, 6e-3), 3e-3, bias=True),
)
_CROSS_ENTROPY = (
    ("ETF", DeepLinearModel((1,) * 4, 4, (5e-3,), 5e-3, cross_entropy=True)),
    ("ETF", DeepLinearModel((1,) * 3, 3, (3e-3,) * 3, 3e-3, cross_entropy=True)),
    ("orthoplex", DeepLinearModel((1,) * 4, 4, (3e-3,) * 3, 3e-3, cross_entropy=True)),
    ("orthoplex", DeepLinearModel((1,) * 10, 10, (1e-3,) * 2, 1e-3, cross_entropy=True)),
)
_SHARP = 0.1  # what the tolerance of one and two layers is of the given one


def _squared_case(model: DeepLinearModel, tolerance: float, seed: int) -> CaseResult:
    if len(model.decays) < 3:
        tolerance *= _SHARP
    solution = model.solve(seed)
    options = {"weight_decays": model.decays, "feature_decay": model.lambda_h, "bias": model.bias}
    geometry = deep_linear_geometry(model.class_counts, **options)  # type: ignore[arg-type]
    loss = deep_linear_loss(model.class_counts, **options)  # type: ignore[arg-type]
    W, H = solution.weight, solution.means

    def vanishing(what: str, found: float) -> Check:
        return Check.vanishing(what, found, tolerance=tolerance)

    checks = [
        Check.of("loss", loss, solution.minimum.loss, tolerance=tolerance),
        vanishing("WW^T", _distance(W @ W.T, geometry.weight_gram)),
        vanishing("H^TH of class means", _distance(H @ H.T, geometry.mean_gram)),
        vanishing("WH", _distance(W @ H.T, geometry.product)),
        vanishing("spread within classes", solution.spread_within_classes()),
        vanishing("lambda |.|^2 unequal", solution.imbalance_of_layers()),
    ]
    if model.bias:
        shares = model.one_hot.mean(0)
        checks.append(vanishing("b from n/N", _distance(solution.minimum.point["bias"], shares)))
        if len(set(model.class_counts)) == 1:
            checks.append(vanishing("WW^T from the ETF", solution.etf_distance()))
    else:
        checks += _collapsed(solution, geometry.weight_gram.diagonal() == 0, vanishing)
    return CaseResult(solution.minimum, tuple(checks))


def _collapsed(
    solution: DeepLinearSolution, gone: Tensor, vanishing: Callable[[str, float], Check]
) -> list[Check]:
    """Classes that the theorem sends to zero, relative to the largest class."""
    if not gone.any():
        return []
    found = []
    for vectors in (solution.weight, solution.means):
        norms = vectors.norm(dim=1)
        found.append((norms[gone].max() / norms.max()).item())
    return [vanishing("w, h of the collapsed class", max(found))]


def _distance(found: Tensor, predicted: Tensor) -> float:
    return ((found - predicted).norm() / predicted.norm()).item()


def _branch(model: DeepLinearModel, frame: str) -> tuple[float, float]:
    """Lowest loss over the logits' size of an ETF or an orthoplex, and that size; equal counts."""
    K, total = len(model.class_counts), len(model.labels)
    factors = [*model.decays, model.lambda_h]
    L = len(factors)
    price = L / 2 * math.exp(sum(map(math.log, factors)) / L)
    copies = math.sqrt(total / K)  # samples of a class lie on each other: singular values grow by this

    def loss(a: float) -> float:
        if frame == "ETF":  # Z = a (I - 11^T/K)
            return math.log1p((K - 1) * math.exp(-a)) + price * (K - 1) * (copies * a) ** (2 / L)
        # Z is K/2 blocks of a [[1, -1], [-1, 1]], each with one singular value 2a.
        wrong = (K - 2) * math.exp(-a) + math.exp(-2 * a)
        return math.log1p(wrong) + price * K / 2 * (copies * 2 * a) ** (2 / L)

    # The loss may first rise from zero, so a coarse look comes before the golden section.
    grid = [0.05 * step for step in range(1, 1001)]
    best = min(grid, key=loss)
    low, high, ratio = best - 0.05, best + 0.05, (math.sqrt(5) - 1) / 2
    for _ in range(100):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return loss((low + high) / 2), (low + high) / 2


def _cross_entropy_case(frame: str, model: DeepLinearModel, tolerance: float, seed: int) -> CaseResult:
    if len(model.decays) < 3:
        tolerance *= _SHARP
    solution = model.solve(seed, starts=12)
    branches = {name: _branch(model, name)[0] for name in ("ETF", "orthoplex")}
    K, found = len(model.class_counts), solution.minimum.loss
    rank = K - 1 if frame == "ETF" else K // 2
    checks = [
        Check.of(f"loss of the {frame}", branches[frame], found, tolerance=tolerance),
        Check.of("rank of W", float(rank), float(solution.rank()), tolerance=tolerance),
    ]
    if frame == "ETF":
        checks.append(Check.vanishing("WW^T from the ETF", solution.etf_distance(), tolerance=tolerance))
    findings = (
        Finding("loss found", found),
        Finding("loss of the best ETF", branches["ETF"]),
        Finding("WW^T from the ETF", solution.etf_distance()),
        Finding("ETF is the optimum", branches["ETF"] <= found * (1 + tolerance)),
    )
    return CaseResult(solution.minimum, tuple(checks), findings)


THEOREM = Theorem(
    title="Deep linear networks: orthogonal under the squared error, not always an ETF under cross-entropy",
    source='Dang et al., "Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data", '
    "ICML 2023, arXiv 2301.00437",
    loss="1/(2N) |W_M ... W_1 H + b 1^T - Y|^2 (MSE; +b with a bias) or 1/N sum_i CE, "
    "+ sum_m lw_m/2 |W_m|^2 + lh/2 |H|^2",
    cases=(
        *(Case(model.name, partial(_squared_case, model)) for model in _SQUARED),
        *(Case(model.name, partial(_cross_entropy_case, frame, model)) for frame, model in _CROSS_ENTROPY),
    ),
    notes=(
        "n=(...): samples of each class, each with its feature. WW^T is that of the product of the layers.",
        "One and two layers must agree within a tenth of the tolerance, three within the tolerance.",
        "Under cross-entropy the paper names the ETF for any depth. The last two models show that it is not "
        "the optimum in general: an orthoplex of K/2 directions costs less, and is what the minimiser finds.",
    ),
)
