"""Records of checks: what counts as equal, and what JSON gets."""

import json
import math

import pytest
import torch

from etfhead.theory import Case, CaseResult, Check, Finding, Theorem, TheoryResult
from etfhead.theory.minimise import Minimum

MINIMUM = Minimum({"x": torch.zeros(1)}, 1.5, 1e-16, 3, 2, 40)


def result_of(*checks, findings=()):
    theorem = Theorem("title", "source", "loss", (Case("only", lambda tolerance, seed: None),), ("note",))
    return TheoryResult("name", theorem, 1e-5, 7, (CaseResult(MINIMUM, checks, findings),), 0.25)


def test_errors_are_relative_to_the_prediction_and_the_edge_counts():
    check = Check.of("x", -4.0, -4.5, tolerance=0.125)
    assert check.error == 0.125
    assert check.ok
    assert not Check.of("x", -4.0, -4.6, tolerance=0.125).ok
    assert not Check.of("x", -4.0, 4.0, tolerance=0.125).ok
    assert Check.vanishing("x", -1e-6, tolerance=1e-5).error == 1e-6
    assert not Check.vanishing("x", -1e-4, tolerance=1e-5).ok


@pytest.mark.parametrize("found", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_agrees(found):
    assert not Check.of("x", 1.0, found, tolerance=1e-5).ok
    assert not Check.vanishing("x", found, tolerance=1e-5).ok


def test_a_prediction_of_zero_has_no_relative_error():
    with pytest.raises(ValueError, match=r"rho: predicted=0 .* Check\.vanishing"):
        Check.of("rho", 0.0, 1.0, tolerance=1e-5)


def test_a_result_is_ok_only_with_checks_that_all_agree():
    good, bad = Check.vanishing("x", 0.0, tolerance=1e-5), Check.vanishing("x", 1.0, tolerance=1e-5)
    assert result_of(good, good).ok
    assert not result_of(good, bad).ok
    assert not result_of().ok
    assert not result_of(findings=(Finding("f", 1.0),)).ok


def test_json_has_every_figure_and_no_nan():
    checks = (Check.of("a", 2.0, math.nan, tolerance=1e-3), Check.of("b", 2.0, 2.001, tolerance=1e-3))
    findings = (Finding("angle", 3.5, "deg"), Finding("decoded", True))
    values = json.loads(json.dumps(result_of(*checks, findings=findings).as_dict(), allow_nan=False))
    assert values["ok"] is False
    assert (values["name"], values["title"], values["seed"], values["notes"]) == (
        "name",
        "title",
        7,
        ["note"],
    )
    (case,) = values["cases"]
    assert case["name"] == "only"
    assert case["minimum"] == {"loss": 1.5, "gradient": 1e-16, "starts": 3, "agreeing": 2, "evaluations": 40}
    assert [check["ok"] for check in case["checks"]] == [False, True]
    assert case["checks"][0]["found"] is None
    assert case["checks"][1]["error"] == pytest.approx(5e-4)
    assert case["findings"] == [
        {"what": "angle", "value": 3.5, "unit": "deg"},
        {"what": "decoded", "value": True, "unit": ""},
    ]
