"""Unconstrained-feature models: a closed-form optimum beside a numerical minimiser, for each theorem."""

from etfhead.theory.registry import THEOREMS, run_theorem
from etfhead.theory.result import Case, CaseResult, Check, Finding, Theorem, TheoryResult

__all__ = [
    "THEOREMS",
    "Case",
    "CaseResult",
    "Check",
    "Finding",
    "Theorem",
    "TheoryResult",
    "run_theorem",
]
