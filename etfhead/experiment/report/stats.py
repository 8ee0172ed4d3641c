"""Paired statistics over seeds, and the rule that turns them into a verdict.

**The rule, in one place.** A contender is compared with the baseline on the primary figure: test top-1 at
the epoch with the best validation accuracy. Arms of one seed share initial trunk, data order and
augmentation, so the unit of evidence is the difference within a seed. From the differences over the common
seeds comes a Student-t interval at 95 %:

* fewer than three common seeds: ``too_few_seeds``, no verdict;
* all differences equal and not zero: ``no_spread``, no verdict (an interval of no width would claim
  certainty, where more likely the seeds had no effect);
* interval above zero: ``helped``; below zero: ``hurt``;
* otherwise, and when all differences are zero: ``no_measurable_difference``.

With more than three contenders the best of them tends to look good by chance. "Interval beside zero" is the
same as "two-sided p below 0.05"; from four comparisons on, that p is first adjusted by Holm's method. The
intervals shown are never adjusted.

An exact sign-flip test is left out on purpose: with n seeds its smallest two-sided p is 2 / 2**n, 0.25 for
three seeds and 0.0625 for five, so at the usual number of seeds it cannot speak.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = [
    "ALPHA",
    "HOLM_FROM",
    "MIN_SEEDS",
    "Outcome",
    "Paired",
    "Spread",
    "describe",
    "holm",
    "judge",
    "median_with_misses",
    "paired_difference",
    "paired_ratio",
    "spread_by_seed",
]

ALPHA = 0.05
MIN_SEEDS = 3
HOLM_FROM = 4  # comparisons; below that the verdict is read off the unadjusted interval

# Accuracies are percentages of counted images: differences closer than this are equal but for rounding.
_EQUAL = 1e-9

Outcome = Literal["helped", "hurt", "no_measurable_difference", "no_spread", "too_few_seeds", "no_data"]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (``None`` for a single value) of ``n`` values."""

    n: int
    mean: float
    std: float | None


@dataclass(frozen=True)
class Paired:
    """Contender against baseline over the seeds that both finished.

    ``low``, ``high`` and ``p_value`` are ``None`` where there is no spread to build them from: one seed, or
    differences that are all equal. For a ratio, ``mean`` is the geometric mean and ``std`` the sample
    standard deviation of the log ratio.
    """

    values: dict[int, float]
    mean: float
    std: float | None
    low: float | None
    high: float | None
    p_value: float | None
    above: int
    below: int

    @property
    def n(self) -> int:
        """Number of common seeds."""
        return len(self.values)


def describe(values: Sequence[float]) -> Spread | None:
    """Mean and sample standard deviation, or ``None`` for no values.

    >>> describe([86.0, 88.0])
    Spread(n=2, mean=87.0, std=1.4142135623730951)
    """
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(n=len(values), mean=statistics.fmean(values), std=std)


def spread_by_seed(values: Mapping[int, float]) -> dict[str, Any] | None:
    """A figure as the summary stores it: ``n``, ``mean``, ``std`` and ``values`` by seed; ``None`` for none.

    >>> spread_by_seed({0: 1.0})
    {'n': 1, 'mean': 1.0, 'std': None, 'values': {0: 1.0}}
    """
    spread = describe(list(values.values()))
    return None if spread is None else {**asdict(spread), "values": dict(values)}


def paired_difference(contender: Mapping[int, float], baseline: Mapping[int, float]) -> Paired | None:
    r"""Mean of ``contender - baseline`` over common seeds with its 95 % Student-t interval.

    .. math:: \bar d \pm t_{0.975,\,n-1}\, s_d / \sqrt n

    Args:
        contender: Value per seed.
        baseline: Value per seed.

    Returns:
        The paired difference, or ``None`` without a common seed.

    >>> d = paired_difference({0: 87.1, 1: 87.3, 2: 87.5}, {0: 86.6, 1: 87.0, 2: 86.8})
    >>> f"{d.mean:+.2f} points, {d.low:+.2f} to {d.high:+.2f}"
    '+0.50 points, +0.00 to +1.00'
    """
    differences = {seed: contender[seed] - baseline[seed] for seed in sorted(contender) if seed in baseline}
    return _paired(differences)


def paired_ratio(contender: Mapping[int, float], baseline: Mapping[int, float]) -> Paired | None:
    """Geometric mean of ``contender / baseline`` over common seeds with its 95 % interval.

    The interval is built on the log ratio, so it never reaches below zero and does not depend on which of
    the two is the divisor. Seeds where either value is not positive are left out.
    """
    logs = {
        seed: math.log(contender[seed] / baseline[seed])
        for seed in sorted(contender)
        if seed in baseline and contender[seed] > 0 and baseline[seed] > 0
    }
    paired = _paired(logs)
    if paired is None:
        return None
    return Paired(
        values={seed: math.exp(value) for seed, value in paired.values.items()},
        mean=math.exp(paired.mean),
        std=paired.std,
        low=None if paired.low is None else math.exp(paired.low),
        high=None if paired.high is None else math.exp(paired.high),
        p_value=paired.p_value,
        above=paired.above,
        below=paired.below,
    )


def _paired(differences: dict[int, float]) -> Paired | None:
    spread = describe(list(differences.values()))
    if spread is None:
        return None
    low = high = p_value = None
    constant = max(differences.values()) - min(differences.values()) <= _EQUAL
    if spread.std is not None and not constant:
        # scipy.stats.t is made of these two functions, and takes a second longer to import.
        from scipy.special import stdtr, stdtrit

        error = spread.std / math.sqrt(spread.n)
        reach = float(stdtrit(spread.n - 1, 1 - ALPHA / 2)) * error
        low, high = spread.mean - reach, spread.mean + reach
        p_value = 2 * float(stdtr(spread.n - 1, -abs(spread.mean) / error))
    return Paired(
        values=differences,
        mean=0.0 if abs(spread.mean) <= _EQUAL else spread.mean,
        std=0.0 if constant and spread.std is not None else spread.std,
        low=low,
        high=high,
        p_value=p_value,
        above=sum(value > _EQUAL for value in differences.values()),
        below=sum(value < -_EQUAL for value in differences.values()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: controls the chance of one false alarm among all comparisons.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def judge(difference: Paired | None, p_value: float | None) -> Outcome:
    """Apply the verdict rule of this module to one contender.

    Args:
        difference: Paired difference of the primary figure.
        p_value: Its p-value, Holm-adjusted where the rule asks for it.
    """
    if difference is None:
        return "no_data"
    if difference.n < MIN_SEEDS:
        return "too_few_seeds"
    if p_value is None:
        return "no_measurable_difference" if difference.mean == 0 else "no_spread"
    if p_value >= ALPHA:
        return "no_measurable_difference"
    return "helped" if difference.mean > 0 else "hurt"


def median_with_misses(values: Sequence[float | None]) -> float | None:
    """Median where ``None`` means "never": later than every number, so a miss counts and is not dropped.

    >>> median_with_misses([4.0, None, 6.0]), median_with_misses([4.0, None])
    (6.0, None)
    """
    if not values:
        return None
    middle = statistics.median(math.inf if value is None else value for value in values)
    return middle if math.isfinite(middle) else None
