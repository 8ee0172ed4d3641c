r"""Memorization and dilation: what a few wrong labels do to two classes, with and without label smoothing.

The risk is a reconstruction of the model of Nguyen et al. (ICLR 2023, arXiv 2206.05530); see `DilationModel`.
The minimum of the whole constrained problem is compared with the symmetric one, and in two limits the latter
with closed forms. Where the paper's direction is claimed, label smoothing must dilate less than
cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

from etfhead.theory.memorization_dilation_full import solve_full
from etfhead.theory.memorization_dilation_limits import strong_coupling_rate, vanishing_noise_rate
from etfhead.theory.memorization_dilation_model import DilationModel, DilationSolution
from etfhead.theory.memorization_dilation_symmetric import solve_symmetric
from etfhead.theory.result import Case, CaseResult, Check, Finding, Theorem

__all__ = ["THEOREM"]

_SMOOTHINGS = (0.0, 0.1, 0.2)
_RATES = (0.05, 0.1, 0.2, 0.3, 0.4)
_HEADS = (DilationModel(0.0, 0.0), DilationModel(0.0, 0.0, lambda_w=None))
_VARIANTS = (
    DilationModel(0.2, 0.0, sphere=True),
    DilationModel(0.2, 0.0, decay_dilation=True),
    DilationModel(0.2, 0.0, lambda_h=0.02, lambda_w=0.01),
    DilationModel(0.2, 0.0, lambda_w=None, scale=4.0),
)
_STRONG = 0.1  # C of a network that can hardly memorise
_STRONG_RATES = (0.05, 0.1, 0.2)
_MERGED_RATE = 0.4
_SMALL_NOISE = tuple(0.02 / 2**i for i in range(4))
_SMALL_COUPLING = tuple(0.002 / 2**i for i in range(3))


@cache
def _solved(model: DilationModel, seed: int) -> DilationSolution:
    return solve_full(model, seed)


def _findings(model: DilationModel, seed: int) -> tuple[Finding, ...]:
    found, plain = _solved(model, seed), _solved(replace(model, label_smoothing=0.0), seed)
    return (
        Finding("r / |h_1 - h_2|", 100 * found.dilation, "%"),
        Finding("of cross-entropy's", found.dilation / plain.dilation),
        Finding("memorization", found.memorization),
        Finding("mem. / |h_1 - h_2|", found.memorization / found.separation),
        Finding("|h_1 - h_2|", found.separation),
    )


def _figures_case(model: DilationModel, claimed: bool, tolerance: float, seed: int) -> CaseResult:
    """The whole problem against its symmetric minimum and, where it is claimed, the direction."""
    found, predicted = _solved(model, seed), solve_symmetric(model)
    checks = [
        Check.of("loss", predicted.minimum.loss, found.minimum.loss, tolerance=tolerance),
        Check.of("r / |h_1 - h_2|", predicted.dilation, found.dilation, tolerance=tolerance),
        Check.of("memorization", predicted.memorization, found.memorization, tolerance=tolerance),
        Check.of("|h_1 - h_2|", predicted.separation, found.separation, tolerance=tolerance),
        Check.vanishing("off orthogonal mirror images", found.asymmetry(), tolerance=tolerance),
    ]
    if claimed and model.label_smoothing:
        plain = _solved(replace(model, label_smoothing=0.0), seed)
        checks.append(_below(found.dilation, plain.dilation, tolerance))
    return CaseResult(found.minimum, tuple(checks), _findings(model, seed))


def _seen_case(model: DilationModel, tolerance: float, seed: int) -> CaseResult:
    return CaseResult(_solved(model, seed).minimum, findings=_findings(model, seed))


def _below(smoothed: float, plain: float, tolerance: float) -> Check:
    what = "dilates less than cross-entropy (1: yes)"
    return Check.of(what, 1.0, float(smoothed < plain), tolerance=tolerance)


def _vanishing_noise_case(model: DilationModel, tolerance: float, seed: int) -> CaseResult:
    models = [replace(model, noise=noise) for noise in _SMALL_NOISE]
    return _limit_case(models, _SMALL_NOISE, 1, vanishing_noise_rate, True, tolerance)


def _strong_coupling_case(model: DilationModel, tolerance: float, seed: int) -> CaseResult:
    models = [replace(model, coupling=coupling) for coupling in _SMALL_COUPLING]
    # r / C is a function of C^2.
    return _limit_case(models, _SMALL_COUPLING, 2, strong_coupling_rate, False, tolerance)


def _limit_case(
    models: Sequence[DilationModel],
    sizes: Sequence[float],
    order: int,
    closed_form: Callable[[DilationModel], float],
    claimed: bool,
    tolerance: float,
) -> CaseResult:
    """Dilation over the small number, continued to where that vanishes, with and without smoothing."""
    checks, found, predicted = [], {}, {}
    for a in _SMOOTHINGS:
        smoothed = [replace(model, label_smoothing=a) for model in models]
        solutions = [solve_symmetric(model) for model in smoothed]
        rates = [solution.dilation / size for solution, size in zip(solutions, sizes, strict=True)]
        found[a] = _at_zero([size**order for size in sizes], rates)
        predicted[a] = closed_form(smoothed[-1])
        checks.append(Check.of(f"a={a:g}: rate", predicted[a], found[a], tolerance=tolerance))
        if a:
            ratios = predicted[a] / predicted[0.0], found[a] / found[0.0]
            checks.append(Check.of(f"a={a:g}: of cross-entropy's", *ratios, tolerance=tolerance))
            if claimed:
                checks.append(_below(found[a], found[0.0], tolerance))
    return CaseResult(solutions[-1].minimum, tuple(checks))


def _at_zero(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The polynomial through all values, at zero."""
    total = 0.0
    for i, value in enumerate(values):
        total += value * math.prod(other / (other - sizes[i]) for j, other in enumerate(sizes) if j != i)
    return total


def _cases() -> tuple[Case, ...]:
    def smoothed(model: DilationModel, smoothings: Sequence[float] = _SMOOTHINGS) -> list[DilationModel]:
        return [replace(model, label_smoothing=a) for a in smoothings]

    claimed = [m for head in _HEADS for rate in _RATES for m in smoothed(replace(head, noise=rate))]
    claimed += [m for model in _VARIANTS for m in smoothed(model, (0.0, 0.1))]
    strong = [replace(head, coupling=_STRONG) for head in _HEADS]
    unclaimed = [m for head in strong for rate in _STRONG_RATES for m in smoothed(replace(head, noise=rate))]
    kinds = ("learned", "fixed")
    merged = [m for head in strong for m in smoothed(replace(head, noise=_MERGED_RATE), (0.0, 0.1))]
    return (
        *(Case(model.name, partial(_figures_case, model, True)) for model in claimed),
        *(
            Case(f"eta to 0, rate = r / (eta |h_1 - h_2|): {kind} head", partial(_vanishing_noise_case, head))
            for kind, head in zip(kinds, _HEADS, strict=True)
        ),
        *(Case(model.name, partial(_figures_case, model, False)) for model in unclaimed),
        *(
            Case(
                f"C to 0, rate = r / (C |h_1 - h_2|): {kind} head, eta={rate:g}",
                partial(_strong_coupling_case, replace(head, noise=rate)),
            )
            for kind, head in zip(kinds, _HEADS, strict=True)
            for rate in (_STRONG_RATES[0], _STRONG_RATES[-1])
        ),
        *(Case(model.name, partial(_seen_case, model)) for model in merged),
    )


THEOREM = Theorem(
    title="Memorization and dilation: label smoothing dilates less than cross-entropy, and where it does not",
    source='Reconstruction after Nguyen et al., "Memorization-Dilation: Modeling Neural Collapse Under Label '
    'Noise", ICLR 2023, arXiv 2206.05530; the risk below is NOT quoted from the paper',
    loss="sum_n E_v CE_a(W (h_n + v), n) + lw |W|^2 + lh |h|^2 + eta sum_n [CE_a(W u_n, n) + lh |u_n|^2]; "
    "h, u >= 0, E|v|^2 = r^2, eta |h_n' - u_n| <= C r / |h_1 - h_2|; a: label smoothing, n' the other class",
    cases=_cases(),
    notes=(
        "The risk, its constraint and the closed forms are this project's reconstruction. The figures say "
        "what that model does, not what the paper's theorem or a network does.",
        "PREDICTED: the minimum where the classes mirror each other; for eta or C to 0 a closed form. FOUND: "
        "the whole problem with its constraints (SLSQP); for eta or C to 0 that minimum, continued to 0.",
        "eta weights wrong labels against right ones: their share is eta/(1 + eta).",
        "For eta to 0 label smoothing dilates less at any decay that leaves the classes apart: its finite "
        "logit gap makes features smaller. Its memorization over the separation is not smaller.",
        f"At C={_STRONG:g} and C to 0 a network can hardly memorise, and no direction is claimed: with the "
        "fixed head and eta=0.2 label smoothing dilates MORE (of cross-entropy's > 1).",
        f"At C={_STRONG:g} and eta={_MERGED_RATE:g} nothing is predicted: the fixed head's classes nearly "
        "merge, and the two do not mirror each other.",
    ),
)
