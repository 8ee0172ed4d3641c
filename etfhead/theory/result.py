"""What a theorem is here: cases to minimise, figures predicted and found, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etfhead.theory.minimise import Minimum

__all__ = ["Case", "CaseResult", "Check", "Finding", "Theorem", "TheoryResult"]


@dataclass(frozen=True)
class Check:
    """One predicted figure beside the one found.

    Args:
        what: The figure, short.
        predicted: By the closed form.
        found: By the minimiser. Where many must agree, the one farthest off.
        error: Relative error; see `of` and `vanishing`.
        tolerance: Largest error that counts as equal.

    >>> Check.of("rho", 2.0, 2.002, tolerance=1e-2).ok
    True
    >>> Check.of("rho", 2.0, float("nan"), tolerance=1e-2).ok
    False
    """

    what: str
    predicted: float
    found: float
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance; NaN never is."""
        return self.error <= self.tolerance

    @classmethod
    def of(cls, what: str, predicted: float, found: float, *, tolerance: float) -> Check:
        """A figure that is not zero: the error is relative to the prediction.

        Raises:
            ValueError: If the prediction is zero; that is what `vanishing` is for.
        """
        if predicted == 0:
            raise ValueError(f"{what}: predicted=0 has no relative error; use Check.vanishing")
        return cls(what, predicted, found, abs(found - predicted) / abs(predicted), tolerance)

    @classmethod
    def vanishing(cls, what: str, found: float, *, tolerance: float) -> Check:
        """A relative distance that must be zero: it is its own error."""
        return cls(what, 0.0, found, abs(found), tolerance)


@dataclass(frozen=True)
class Finding:
    """A figure for information, where no theorem predicts one."""

    what: str
    value: float | bool
    unit: str = ""


@dataclass(frozen=True)
class CaseResult:
    """One minimised model: its minimum, the checks, and what else was seen."""

    minimum: Minimum
    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Case:
    """One model to minimise; ``run(tolerance, seed)`` does it."""

    name: str
    run: Callable[[float, int], CaseResult]


@dataclass(frozen=True)
class Theorem:
    """A closed-form optimum and the cases it is tried on.

    Args:
        title: One line.
        source: Paper and arXiv number.
        loss: The model's loss, written out; symbols explained.
        cases: Models to minimise.
        notes: What the cases with findings show, and what the theorem does not say.
    """

    title: str
    source: str
    loss: str
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TheoryResult:
    """A theorem beside its numerical minima.

    Args:
        name: As registered.
        theorem: What was tried.
        tolerance: Of the checks.
        seed: Of the minimiser's starts.
        cases: One result for each case of the theorem, in its order.
        seconds: Wall time.
    """

    name: str
    theorem: Theorem
    tolerance: float
    seed: int
    cases: tuple[CaseResult, ...]
    seconds: float

    @property
    def named_cases(self) -> Iterator[tuple[str, CaseResult]]:
        """Every result with the name of its case."""
        return zip((case.name for case in self.theorem.cases), self.cases, strict=True)

    @property
    def checks(self) -> list[Check]:
        """The checks of all cases."""
        return [check for case in self.cases for check in case.checks]

    @property
    def ok(self) -> bool:
        """Whether there are checks and all are within tolerance."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a figure that is not finite becomes None."""
        return {
            "name": self.name,
            "title": self.theorem.title,
            "source": self.theorem.source,
            "loss": self.theorem.loss,
            "tolerance": self.tolerance,
            "seed": self.seed,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "cases": [_case_dict(name, case) for name, case in self.named_cases],
            "notes": list(self.theorem.notes),
        }


def _case_dict(name: str, case: CaseResult) -> dict[str, Any]:
    found = case.minimum
    return {
        "name": name,
        "minimum": {
            "loss": _finite(found.loss),
            "gradient": _finite(found.gradient),
            "starts": found.starts,
            "agreeing": found.agreeing,
            "evaluations": found.evaluations,
        },
        "checks": [
            {
                "what": check.what,
                "predicted": _finite(check.predicted),
                "found": _finite(check.found),
                "error": _finite(check.error),
                "tolerance": check.tolerance,
                "ok": check.ok,
            }
            for check in case.checks
        ],
        "findings": [
            {"what": finding.what, "value": _finite(finding.value), "unit": finding.unit}
            for finding in case.findings
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
