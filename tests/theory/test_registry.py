"""The list of theorems, and running one."""

import importlib
import math

import pytest

from etfhead.theory import THEOREMS, Case, CaseResult, Check, Theorem, registry, run_theorem
from etfhead.theory.minimise import minimise


@pytest.mark.parametrize("name", THEOREMS)
def test_every_entry_has_a_theorem_with_distinct_cases(name):
    theorem = importlib.import_module(THEOREMS[name].module).THEOREM
    names = [case.name for case in theorem.cases]
    assert len(set(names)) == len(names) > 0
    assert theorem.title
    assert "arXiv" in theorem.source


def test_a_theorem_gets_tolerance_and_seed_and_its_cases_in_order(monkeypatch):
    seen = []

    def run(name, tolerance, seed):
        seen.append((name, tolerance, seed))
        found = minimise(lambda v: (v["x"] - 3).square().sum(), {"x": (1,)}, seed=seed)
        return CaseResult(found, (Check.of("x", 3.0, found.point["x"].item(), tolerance=tolerance),))

    cases = tuple(Case(name, lambda t, s, name=name: run(name, t, s)) for name in "ab")
    monkeypatch.setattr(
        importlib.import_module("etfhead.theory.multilabel"), "THEOREM", Theorem("t", "s", "l", cases)
    )
    result = run_theorem("multilabel", tolerance=1e-3, seed=5)
    assert seen == [("a", 1e-3, 5), ("b", 1e-3, 5)]
    assert result.ok
    assert [name for name, _ in result.named_cases] == ["a", "b"]
    assert (result.name, result.tolerance, result.seed) == ("multilabel", 1e-3, 5)


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(ValueError, match="'monolabel'.*" + ", ".join(registry.THEOREMS)):
        run_theorem("monolabel")


@pytest.mark.parametrize("tolerance", [0.0, -1e-5, math.nan, math.inf])
def test_a_tolerance_that_is_not_positive_and_finite_is_an_error(tolerance):
    with pytest.raises(ValueError, match="tolerance="):
        run_theorem("multilabel", tolerance=tolerance)
