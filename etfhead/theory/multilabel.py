r"""Multi-label features under the pick-all-label loss: a scaled sum of the features of single labels.

Neural collapse in multi-label learning (Li, Li, Wang & Qu, ICML 2024, arXiv 2310.15903) for unconstrained
features, with the constants of `etfhead.frames.tagwise`. With K classes, every m-subset of them the same
number of times, and regularisation below the collapse threshold, a global minimum has

.. math::
    W W^\top = \rho\,(I - \tfrac1K 1 1^\top), \qquad h_S = C_m \sum_{k \in S} h_{\{k\}}
    = \tfrac{\delta_m}{\rho} W^\top 1_S

where delta_m, the gap between logits inside and outside S, and C_m depend on m = |S| only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from etfhead.frames.tagwise import tagwise_constants, tagwise_gaps
from etfhead.frames.tagwise_strength import collapse_threshold, fixed_frame_kappa
from etfhead.theory.balanced_pal import BalancedPal
from etfhead.theory.pal_model import LabelSet, PalModel, PalSolution, balanced
from etfhead.theory.result import Case, CaseResult, Check, Finding, Theorem

__all__ = ["THEOREM"]

_REFERENCE = BalancedPal(5, {1: 4, 2: 2, 3: 1}, 5, 5e-3, 1e-4)
_CONFIGURATIONS = (
    BalancedPal(3, {1: 3}, 2, 1e-2, 1e-3),
    BalancedPal(4, {1: 2, 2: 2, 3: 2}, 3, 1e-2, 1e-3),
    BalancedPal(4, {1: 2, 2: 2, 3: 2}, 8, 1e-2, 1e-3, lambda_b=1e-3, normalize=True),
    _REFERENCE,
    replace(_REFERENCE, normalize=True),
    BalancedPal(5, {0: 5, 1: 2, 2: 1, 5: 3}, 6, 2e-3, 5e-4),
    BalancedPal(6, {1: 6, 2: 2}, 6, 5e-3, 5e-5, lambda_b=1e-2),
    BalancedPal(6, {2: 2, 3: 1}, 6, 5e-3, 1e-4),
    BalancedPal(7, {1: 5, 4: 1}, 6, 3e-2, 3e-3, normalize=True),
    BalancedPal(10, {1: 2, 2: 1}, 9, 5e-3, 1e-4),
    BalancedPal(10, {1: 1, 2: 1, 3: 1}, 10, 1e-3, 1e-4, normalize=True),
    BalancedPal(6, {1: 3, 2: 2, 3: 1}, 6, None, 1e-4),
    BalancedPal(6, {1: 3, 2: 2, 3: 1}, 5, None, 1e-3, lambda_b=1e-2, normalize=True),
)
_TO_THRESHOLD = (
    BalancedPal(4, {1: 3}, 4, 0.1, 0.01),
    BalancedPal(5, {1: 4, 2: 2, 3: 1}, 5, 0.1, 0.01),
    BalancedPal(6, {1: 2, 2: 2}, 6, 0.1, 0.01, normalize=True),
)


def _farthest(values: Tensor, predicted: float) -> float:
    return values[(values - predicted).abs().argmax()].item()


def _balanced_case(setting: BalancedPal, tolerance: float, seed: int) -> CaseResult:
    solution = setting.model.solve(seed)
    checks = [
        Check.of("loss", setting.loss(), solution.minimum.loss, tolerance=tolerance),
        *_weight_checks(setting, solution, tolerance),
        *_feature_checks(setting, solution, tolerance),
        *_logit_checks(setting, solution, tolerance),
    ]
    return CaseResult(solution.minimum, tuple(checks))


def _weight_checks(setting: BalancedPal, solution: PalSolution, tolerance: float) -> list[Check]:
    if setting.lambda_w is None:
        return []
    W = solution.weight
    rho = (W.square().sum() / (setting.num_classes - 1)).item()
    return [
        Check.of("rho", setting.rho, rho, tolerance=tolerance),
        Check.vanishing("WW^T from the ETF", solution.etf_distance(), tolerance=tolerance),
    ]


def _feature_checks(setting: BalancedPal, solution: PalSolution, tolerance: float) -> list[Check]:
    checks, means = [], solution.set_means
    if max(setting.copies.values()) > 1:
        checks.append(
            Check.vanishing("spread within sets", solution.spread_within_sets(), tolerance=tolerance)
        )
    for size, gap in setting.gaps().items():
        dual = torch.stack([solution.weight[list(labels)].sum(0) for labels in solution.of_size(size)])
        what = f"h_S = delta_{size}/rho W^T 1_S"
        distance = _distance(solution, size, gap / setting.rho * dual)
        checks.append(Check.vanishing(what, distance, tolerance=tolerance))
    for size, constant in setting.constants().items():
        if 1 in setting.copies and size > 1:
            found = _farthest(solution.constants(size), constant)
            sums = torch.stack([solution.tag_sum(labels) for labels in solution.of_size(size)])
            distance = _distance(solution, size, constant * sums)
            checks.append(Check.of(f"C_{size}", constant, found, tolerance=tolerance))
            checks.append(Check.vanishing(f"h_S = C_{size} sum h_k", distance, tolerance=tolerance))
    unused = [labels for labels in means if len(labels) in (0, setting.num_classes)]
    if unused:
        largest = max(mean.norm().item() for mean in means.values())
        found = max(means[labels].norm().item() for labels in unused) / largest
        checks.append(Check.vanishing("h of empty and full sets", found, tolerance=tolerance))
    return checks


def _distance(solution: PalSolution, size: int, predicted: Tensor) -> float:
    """Largest || h_S - predicted_S || / || predicted_S || over the sets of this size."""
    found = torch.stack([solution.set_means[labels] for labels in solution.of_size(size)])
    return ((found - predicted).norm(dim=1) / predicted.norm(dim=1)).max().item()


def _logit_checks(setting: BalancedPal, solution: PalSolution, tolerance: float) -> list[Check]:
    gaps = setting.gaps()
    checks = [
        Check.of(f"delta_{size}", gap, _farthest(solution.gaps(size), gap), tolerance=tolerance)
        for size, gap in gaps.items()
    ]
    if setting.lambda_b is not None:
        bias = solution.minimum.point["bias"].abs().max().item()
        checks.append(Check.vanishing("b", bias / max(gaps.values()), tolerance=tolerance))
    if len(gaps) == len(setting.copies):  # a full set has no centred logits to decode
        checks.append(Check.of("decoded by logits > 0", 1.0, solution.decoded(), tolerance=tolerance))
    return checks


def _scaled_to_threshold(setting: BalancedPal, factor: float) -> BalancedPal:
    """The model with both penalties scaled until their product is this multiple of the critical one."""
    assert setting.lambda_w is not None  # noqa: S101 - a fixed W has no threshold
    critical = collapse_threshold(setting.num_classes, setting.copies, normalize=setting.normalize)
    root = math.sqrt(factor * critical / (setting.lambda_w * setting.lambda_h))
    return replace(setting, lambda_w=setting.lambda_w * root, lambda_h=setting.lambda_h * root)


def _zero_case(above: BalancedPal, below: BalancedPal, tolerance: float, seed: int) -> CaseResult:
    """Everything vanishes, measured against the solution just below the threshold."""
    solution = above.model.solve(seed)
    gap = max(solution.gaps(size).abs().max().item() for size in above.sizes) / max(below.gaps().values())
    weight = solution.weight.norm().item() / math.sqrt(below.rho * (below.num_classes - 1))
    checks = (
        Check.of("loss", above.loss(), solution.minimum.loss, tolerance=tolerance),
        Check.vanishing("W", weight, tolerance=tolerance),
        Check.vanishing("largest gap", gap, tolerance=tolerance),
    )
    return CaseResult(solution.minimum, checks)


def _repeat(label_sets: Sequence[LabelSet], *counts: int) -> tuple[LabelSet, ...]:
    """The sets in order, their numbers of copies taken from ``counts`` in turn."""
    return tuple(
        s for s, count in zip(label_sets, itertools.cycle(counts), strict=False) for _ in range(count)
    )


def _unbalanced() -> dict[str, tuple[LabelSet, ...]]:
    singles = list(balanced(6, {1: 1}))
    pairs = list(balanced(6, {2: 1}))
    across = [(a, b) for a, b in pairs if a < 3 <= b]
    ring = [(a, b) for a, b in pairs if b - a in (1, 5)]
    return {
        "balanced, n={1:6, 2:2}": _repeat(singles, 6) + _repeat(pairs, 2),
        "pairs 20/4/1, singles 12": _repeat(singles, 12) + _repeat(pairs, 20, 4, 1),
        "pairs 20/4/1, singles 40": _repeat(singles, 40) + _repeat(pairs, 20, 4, 1),
        "singles 20/4/1, pairs 2": _repeat(singles, 20, 4, 1) + _repeat(pairs, 2),
        "9 of 15 pairs (across halves)": _repeat(singles, 6) + _repeat(across, 2),
        "8 of 15 pairs (every other)": _repeat(singles, 6) + _repeat(pairs[::2], 2),
        "6 of 15 pairs (a ring)": _repeat(singles, 6) + _repeat(ring, 2),
    }


def _unbalanced_case(label_sets: tuple[LabelSet, ...], tolerance: float, seed: int) -> CaseResult:
    solution = PalModel(6, label_sets, 6, 5e-3, 1e-4).solve(seed)
    return CaseResult(solution.minimum, findings=_findings(solution))


def _fixed_weight_case(label_sets: tuple[LabelSet, ...], tolerance: float, seed: int) -> CaseResult:
    """Unbalanced label sets under a fixed ETF, where the constants hold all the same."""
    solution = PalModel(6, label_sets, 6, None, 1e-4).solve(seed)
    kappa = fixed_frame_kappa(6, len(label_sets), feature_decay=1e-4)
    checks = [
        Check.of(f"delta_{size}", gap, _farthest(solution.gaps(size), gap), tolerance=tolerance)
        for size, gap in zip((1, 2), tagwise_gaps(6, kappa, (1, 2)).tolist(), strict=True)
    ]
    constant = tagwise_constants(6, kappa, (2,)).item()
    sums = torch.stack([solution.tag_sum(labels) for labels in solution.of_size(2)])
    checks += [
        Check.of("C_2", constant, _farthest(solution.constants(2), constant), tolerance=tolerance),
        Check.vanishing("h_S = C_2 sum h_k", _distance(solution, 2, constant * sums), tolerance=tolerance),
    ]
    return CaseResult(solution.minimum, tuple(checks), _findings(solution))


def _findings(solution: PalSolution) -> tuple[Finding, ...]:
    constants = solution.constants(2)
    return (
        Finding("WW^T from the ETF", solution.etf_distance()),
        Finding("angle h_S, sum h_k", solution.largest_angle(2), "deg"),
        Finding("C_2 lowest", constants.min().item()),
        Finding("C_2 highest", constants.max().item()),
        Finding("decoded by logits > 0", solution.decoded() == 1),
    )


def _cases() -> tuple[Case, ...]:
    cases = [Case(setting.name, partial(_balanced_case, setting)) for setting in _CONFIGURATIONS]
    for setting in _TO_THRESHOLD:
        below, above = (_scaled_to_threshold(setting, factor) for factor in (0.97, 1.03))
        cases.append(Case(f"0.97 x threshold: {below.name}", partial(_balanced_case, below)))
        cases.append(Case(f"1.03 x threshold: {above.name}", partial(_zero_case, above, below)))
    unbalanced = _unbalanced()
    cases += [Case(name, partial(_unbalanced_case, label_sets)) for name, label_sets in unbalanced.items()]
    cases += [
        Case(f"{name}, W = ETF", partial(_fixed_weight_case, unbalanced[name]))
        for name in ("pairs 20/4/1, singles 12", "singles 20/4/1, pairs 2")
    ]
    return tuple(cases)


THEOREM = Theorem(
    title="Multi-label neural collapse: tag-wise features over a simplex ETF",
    source='Li, Li, Wang & Qu, "Neural Collapse in Multi-label Learning with Pick-all-label Loss", '
    "ICML 2024, arXiv 2310.15903",
    loss="1/N sum_i a_i sum_{k in S_i} CE(W h_i + b, k) + lw |W|^2 + lh |H|^2 + lb |b|^2, "
    "a_i = 1 (PAL) or 1/|S_i| (PAL/m)",
    cases=_cases(),
    notes=(
        "n={m: copies}: every m-subset of the K classes occurs that many times, each copy with its feature.",
        "Where many figures must agree (all samples, all label sets) the one farthest off is shown.",
        "With W fixed and no bias every sample is a problem of its own, and the label sets need no balance.",
        "The last table breaks the assumption of balance within each m (K=6, d=6, lw=0.005, lh=0.0001): no "
        "theorem predicts these figures, except for fixed W. Counts such as 20/4/1 go round the label sets.",
    ),
)
