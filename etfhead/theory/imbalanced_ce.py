r"""Cross-entropy on unequal classes: orthogonal means behind a ReLU, merging minorities without, then SELI.

Three statements about free features and one linear layer without bias, with the closed forms of
`etfhead.frames.imbalanced`. Non-negative features (Dang et al. 2024, arXiv 2401.02058): orthogonal class
means, and everything else follows. Signed features (Hong & Ling 2023, arXiv 2309.09725): classes of one size
n merge once :math:`\sqrt{\lambda_W \lambda_H} \ge \sqrt n / N`. Vanishing decay (Thrampoulidis et al. 2022,
arXiv 2208.05512): the support vector machine over class vectors and features has the geometry of the
simplex-encoded labels (SELI).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from etfhead.frames.imbalanced import imbalanced_ce_geometry, seli_geometry
from etfhead.frames.last_layer import LastLayer
from etfhead.theory.imbalanced_ce_model import ImbalancedCEModel, ImbalancedCESolution, support_vectors
from etfhead.theory.minimise import minimise
from etfhead.theory.result import Case, CaseResult, Check, Finding, Theorem

__all__ = ["THEOREM"]

_RELU = (
    ImbalancedCEModel((5, 2), 3, 0.01, 0.03, non_negative=True),
    ImbalancedCEModel((6, 4, 2, 1), 5, 0.01, 0.02, non_negative=True),
    ImbalancedCEModel((9, 4, 1), 4, 0.06, 0.06, non_negative=True),
    ImbalancedCEModel((3, 3, 3), 4, 0.02, 0.01, non_negative=True),
)
_CLUSTERS: tuple[tuple[int, ...], ...] = ((5, 5, 2, 2), (8, 3, 3, 3))
_SVM: tuple[tuple[tuple[int, ...], int], ...] = (((3, 2, 1), 2), ((4, 2, 1, 1), 3), ((2, 2, 2), 3))
_RARE = (20, 20, 2, 2)
_SHARP = 0.1  # what the tolerance of all but SELI is of the given one
_APART = 1e-2  # classes farther apart than this, relative to the largest, have not merged


def _distance(found: Tensor, predicted: Tensor) -> float:
    return ((found - predicted).norm() / predicted.norm()).item()


def _geometry_checks(
    solution: ImbalancedCESolution, geometry: LastLayer, vanishing: Callable[[str, float], Check]
) -> list[Check]:
    W, H = solution.weight, solution.means
    return [
        vanishing("WW^T", _distance(W @ W.T, geometry.weight_gram)),
        vanishing("H^TH of class means", _distance(H @ H.T, geometry.mean_gram)),
        vanishing("WH", _distance(W @ H.T, geometry.product)),
        vanishing("spread within classes", solution.spread_within_classes()),
    ]


def _relu_case(model: ImbalancedCEModel, tolerance: float, seed: int) -> CaseResult:
    tolerance *= _SHARP
    # Several basins: classes can share an axis.
    solution = model.solve(seed, starts=5)
    geometry = imbalanced_ce_geometry(
        model.class_counts, weight_decay=model.lambda_w, feature_decay=model.lambda_h
    )
    entropy = torch.nn.functional.cross_entropy(geometry.product.T[model.labels], model.labels)
    squares = model.lambda_w * geometry.weight_gram.trace()
    squares = squares + model.lambda_h * geometry.mean_gram.diagonal()[model.labels].sum()

    def vanishing(what: str, found: float) -> Check:
        return Check.vanishing(what, found, tolerance=tolerance)

    checks = [
        Check.of("loss", (entropy + squares / 2).item(), solution.minimum.loss, tolerance=tolerance),
        *_geometry_checks(solution, geometry, vanishing),
    ]
    gone = geometry.mean_gram.diagonal() == 0
    if gone.any():
        norms = solution.means.norm(dim=1)
        checks.append(vanishing("h of the collapsed class", (norms[gone].max() / norms.max()).item()))
    return CaseResult(solution.minimum, tuple(checks))


def _merge_case(counts: tuple[int, ...], size: int, factor: float, tolerance: float, seed: int) -> CaseResult:
    """Decays at this multiple of the threshold of the classes of one size."""
    tolerance *= _SHARP
    solution = _at_threshold(counts, size, factor).solve(seed)
    members = [k for k, count in enumerate(counts) if count == size]
    spread = max(_spread(vectors, members) for vectors in (solution.weight, solution.means))
    what = f"classes of {size} samples"
    check = (
        Check.vanishing(f"{what}: spread", spread, tolerance=tolerance)
        if factor > 1
        else Check.of(f"{what}: apart", 1.0, float(spread > _APART), tolerance=tolerance)
    )
    norms = solution.means.norm(dim=1)
    findings = (
        Finding("spread", spread),
        Finding("|h| rarest / |h| most frequent", (norms[-1] / norms[0]).item()),
    )
    return CaseResult(solution.minimum, (check,), findings)


def _zero_case(counts: tuple[int, ...], factor: float, tolerance: float, seed: int) -> CaseResult:
    """Above the threshold of the largest classes nothing is left; measured against just below it."""
    tolerance *= _SHARP
    solution = _at_threshold(counts, max(counts), factor).solve(seed)
    below = _at_threshold(counts, max(counts), 1 / factor).solve(seed)
    checks = [Check.of("loss", math.log(len(counts)), solution.minimum.loss, tolerance=tolerance)]
    for what, found, reference in (
        ("W", solution.weight, below.weight),
        ("H", solution.features, below.features),
    ):
        checks.append(Check.vanishing(what, (found.norm() / reference.norm()).item(), tolerance=tolerance))
    return CaseResult(solution.minimum, tuple(checks))


def _at_threshold(counts: tuple[int, ...], size: int, factor: float) -> ImbalancedCEModel:
    decay = factor * math.sqrt(size) / sum(counts)
    return ImbalancedCEModel(counts, len(counts), decay * 1.5, decay / 1.5)


def _spread(vectors: Tensor, members: list[int]) -> float:
    """Largest distance of these vectors from their mean, relative to the largest of all."""
    own = vectors[members]
    return ((own - own.mean(0)).norm(dim=1).max() / vectors.norm(dim=1).max()).item()


def _seli_case(counts: tuple[int, ...], in_features: int, tolerance: float, seed: int) -> CaseResult:
    solution = support_vectors(counts, in_features, seed=seed)
    geometry = seli_geometry(counts)

    def vanishing(what: str, found: float) -> Check:
        return Check.vanishing(what, found, tolerance=tolerance)

    checks = [
        Check.of(
            "loss",  # the nuclear norm of the simplex-encoded labels
            geometry.weight_gram.trace().item(),
            solution.minimum.loss,
            tolerance=tolerance,
        ),
        *_geometry_checks(solution, geometry, vanishing),
    ]
    return CaseResult(solution.minimum, tuple(checks))


def _limit_case(decay: float, tolerance: float, seed: int) -> CaseResult:
    """How far cross-entropy is from SELI at this decay; one feature a class, weighted by its count."""
    counts = torch.tensor(_RARE, dtype=torch.float64)
    K, geometry = len(_RARE), seli_geometry(_RARE)
    # The same for every sample of a class, for any signed optimum has no spread within classes.
    labels = torch.arange(K)

    def loss(variables: dict[str, Tensor]) -> Tensor:
        W, H = variables["weight"], variables["means"]
        entropy = torch.nn.functional.cross_entropy(H @ W.T, labels, reduction="none")
        squares = W.square().sum() + counts @ H.square().sum(1)
        # Divided by the decay: the minimiser stops where a loss of order 1 hardly falls.
        return counts @ entropy / (counts.sum() * decay) + squares / 2

    minimum = minimise(loss, {"weight": (K, K), "means": (K, K)}, seed=seed)  # type: ignore[arg-type]
    W, H = minimum.point["weight"], minimum.point["means"]
    findings = (
        Finding("WW^T from SELI", _direction_distance(W @ W.T, geometry.weight_gram)),
        Finding("H^TH from SELI", _direction_distance(H @ H.T, geometry.mean_gram)),
    )
    return CaseResult(minimum, findings=findings)


def _direction_distance(a: Tensor, b: Tensor) -> float:
    return (a / a.norm() - b / b.norm()).norm().item()


def _cases() -> tuple[Case, ...]:
    cases = [Case(model.name, partial(_relu_case, model)) for model in _RELU]
    for counts in _CLUSTERS:
        for size in sorted(set(counts)):
            for factor in (0.9, 1.1):
                name = f"{factor:g} x threshold of {size}: {_at_threshold(counts, size, factor).name}"
                if factor > 1 and size == max(counts):
                    cases.append(Case(name, partial(_zero_case, counts, factor)))
                elif counts.count(size) > 1:
                    cases.append(Case(name, partial(_merge_case, counts, size, factor)))
    for counts, width in _SVM:
        name = f"SELI  n=({','.join(map(str, counts))}) d={width}"
        cases.append(Case(name, partial(_seli_case, counts, width)))
    rare = ",".join(map(str, _RARE))
    cases += [
        Case(f"signed n=({rare}), lw = lh = {decay:g}", partial(_limit_case, decay))
        for decay in (1e-3, 1e-5, 1e-7)
    ]
    return tuple(cases)


THEOREM = Theorem(
    title="Imbalanced cross-entropy: orthogonal means behind a ReLU, merging minorities, and SELI",
    source="Dang et al. 2024, arXiv 2401.02058 (ReLU); Hong & Ling 2023, arXiv 2309.09725 (signed); "
    "Thrampoulidis et al. 2022, arXiv 2208.05512 (SELI)",
    loss="1/N sum_i CE(W h_i, y_i) + lw/2 |W|^2 + lh/2 |H|^2; "
    "SELI: 1/2 |W|^2 + 1/2 |H|^2 with all margins >= 1",
    cases=_cases(),
    notes=(
        "n=(...): samples of each class, every one with its feature; ReLU: features >= 0.",
        "SELI must agree within the tolerance, all else within a tenth of it.",
        "Just above their threshold merged minorities share a vector that is not zero, unlike those of the "
        "squared error. Above the threshold of the largest class nothing is left.",
        "No closed form predicts the last table: the distance from SELI falls like one over the logarithm of "
        "the decay. SELI is a direction, not a place that training reaches.",
    ),
)
