"""The multi-label theorem: small cases in full, and checks that fail when the prediction is wrong."""

import functools
from dataclasses import replace

import pytest

from etfhead.theory import balanced_pal, multilabel, run_theorem
from etfhead.theory.multilabel import THEOREM

CASES = {case.name: case for case in THEOREM.cases}
SLIGHT = "PAL  K=3 d=2 n={1:3}  lw=0.01 lh=0.001"
QUICK = [
    name for name in CASES if "K=3" in name or "K=4" in name or "{0:5" in name or name.endswith("W = ETF")
]


@functools.cache
def solved(name):
    return CASES[name].run(1e-7, 1)


@pytest.mark.parametrize("name", QUICK)
def test_every_predicted_figure_is_found(name):
    result = solved(name)
    assert result.minimum.agreeing == result.minimum.starts
    for check in result.checks:
        assert check.ok, f"{check.what}: {check.predicted} predicted, {check.found} found"


def test_the_cases_span_what_they_must():
    names = " ".join(CASES)
    assert sum(1 for name in CASES if name.startswith("PAL")) >= 8
    for word in ("PAL/m", "W = ETF", "lb=", "0.97 x", "1.03 x", "balanced, ", "{2:2, 3:1}", "K=10"):
        assert word in names
    figures = {check.what for name in QUICK for check in solved(name).checks}
    expected = {
        "loss",
        "rho",
        "WW^T from the ETF",
        "spread within sets",
        "C_2",
        "h_S = C_2 sum h_k",
        "delta_1",
        "b",
    }
    assert expected <= figures


def test_the_reference_configuration():
    # Gaps computed with an independent implementation of the model, before this one.
    result = CASES["PAL  K=5 d=5 n={1:4, 2:2, 3:1}  lw=0.005 lh=0.0001"].run(1e-7, 0)
    found = {check.what: check.found for check in result.checks}
    gaps = [found[f"delta_{size}"] for size in (1, 2, 3)]
    assert gaps == pytest.approx([5.434745, 4.859256, 4.528649], abs=2e-6)
    assert [found["C_2"], found["C_3"]] == pytest.approx([0.894109, 0.833277], abs=1e-6)


def test_a_wrong_prediction_fails(monkeypatch):
    right = balanced_pal.tagwise_gaps
    monkeypatch.setattr(balanced_pal, "tagwise_gaps", lambda *a, **k: right(*a, **k) * (1 + 3e-5))
    result = CASES[SLIGHT].run(1e-5, 0)
    failed = {check.what for check in result.checks if not check.ok}
    assert {"delta_1", "h_S = delta_1/rho W^T 1_S"} <= failed
    assert "rho" not in failed


def test_a_theorem_whose_assumption_is_broken_does_not_pass_as_one():
    # The balanced prediction beside the minimum of unbalanced sets with the same totals.
    setting = balanced_pal.BalancedPal(3, {1: 4, 2: 2}, 3, 5e-3, 1e-3)
    unbalanced = replace(
        setting.model, label_sets=((0,),) * 8 + ((1,), (2,)) * 2 + ((0, 1), (0, 2), (1, 2)) * 2
    )
    solution = unbalanced.solve(0)
    checks = multilabel._weight_checks(setting, solution, 1e-5)
    assert not all(check.ok for check in checks)
    assert solution.etf_distance() > 1e-2


def test_findings_of_unbalanced_sets_are_not_checked():
    result = CASES["9 of 15 pairs (across halves)"].run(1e-5, 0)
    found = {finding.what: finding.value for finding in result.findings}
    assert result.checks == ()
    # By symmetry the pairs still lie on the sums, while W is no ETF.
    assert found["WW^T from the ETF"] == pytest.approx(0.2125, abs=1e-3)
    assert found["angle h_S, sum h_k"] < 1e-9
    assert found["C_2 lowest"] == pytest.approx(found["C_2 highest"])
    assert found["decoded by logits > 0"] is True


@pytest.mark.slow
def test_the_whole_theorem():
    assert run_theorem("multilabel", tolerance=1e-9, seed=3).ok
