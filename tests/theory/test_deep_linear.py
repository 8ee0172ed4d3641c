"""The deep linear theorem: quick cases in full, and checks that fail when the prediction is wrong."""

import functools
from dataclasses import replace

import pytest
import torch

from etfhead.frames.imbalanced import orthogonal_geometry
from etfhead.theory import deep_linear, run_theorem
from etfhead.theory.deep_linear import THEOREM
from etfhead.theory.deep_linear_model import DeepLinearModel

CASES = {case.name: case for case in THEOREM.cases}
QUICK = [name for name in CASES if "(9,6,3,1)" in name or "(1,1,1,1)" in name or "+b  M=1 n=(3,3" in name]


@functools.cache
def solved(name):
    return CASES[name].run(1e-7, 1)


@pytest.mark.parametrize("name", QUICK)
def test_every_predicted_figure_is_found(name):
    for check in solved(name).checks:
        assert check.ok, f"{check.what}: {check.predicted} predicted, {check.found} found"


def test_the_cases_span_what_they_must():
    names = list(CASES)
    for depth in (1, 2, 3):
        for bias in ("MSE  ", "MSE +b  "):
            own = [name for name in names if name.startswith(f"{bias}M={depth}")]
            assert own, f"{bias}{depth}"
    collapsed = [
        model
        for model in deep_linear._SQUARED
        if (deep_linear.deep_linear_geometry(
            model.class_counts, weight_decays=model.decays, feature_decay=model.lambda_h, bias=model.bias
        ).weight_gram.diagonal() == 0).any()
    ]  # fmt: skip
    assert {len(model.decays) for model in collapsed} == {1, 2, 3}
    figures = {check.what for name in QUICK for check in solved(name).checks}
    assert {"loss", "WW^T", "WH", "w, h of the collapsed class", "b from n/N", "WW^T from the ETF"} <= figures


def test_one_and_two_layers_are_held_to_a_tenth_of_the_tolerance():
    tolerances = {check.tolerance for check in solved(QUICK[0]).checks}
    assert len(tolerances) == 1
    assert tolerances.pop() == pytest.approx(1e-8)


def test_the_etf_is_not_the_optimum_of_three_layers_under_cross_entropy():
    (name,) = [name for name in CASES if name.startswith("CE  M=3 n=(1,1,1,1)")]
    found = {finding.what: finding.value for finding in solved(name).findings}
    assert found["loss of the best ETF"] > 1.05 * found["loss found"]
    assert found["ETF is the optimum"] is False
    assert found["WW^T from the ETF"] > 0.5


def test_the_best_etf_of_one_dimension_is_a_critical_point_of_the_model():
    model = DeepLinearModel((1,) * 4, 4, (3e-3,) * 3, 3e-3, cross_entropy=True)
    loss, size = deep_linear._branch(model, "ETF")
    part = (torch.eye(4, dtype=torch.float64) - 0.25) * size**0.25
    point = {name: part.clone().requires_grad_() for name in model.shapes}
    value = model.loss(point)
    assert value.item() == pytest.approx(loss, rel=1e-12)
    for gradient in torch.autograd.grad(value, list(point.values())):
        assert gradient.abs().max() < 1e-8


def test_a_wrong_prediction_fails(monkeypatch):
    right = deep_linear.deep_linear_geometry

    def wrong(*args, **options):
        geometry = right(*args, **options)
        return geometry._replace(weight_gram=geometry.weight_gram * (1 + 3e-6))

    monkeypatch.setattr(deep_linear, "deep_linear_geometry", wrong)
    result = CASES[QUICK[0]].run(1e-5, 0)
    assert {check.what for check in result.checks if not check.ok} == {"WW^T"}


def test_the_balanced_optimum_is_not_that_of_unequal_counts():
    model = DeepLinearModel((6, 2, 1), 4, (1e-2,), 1e-2)
    solution = model.solve(0, starts=1)
    balanced = orthogonal_geometry([3, 3, 3], weight_decay=1e-2, feature_decay=1e-2).weight_gram
    assert deep_linear._distance(solution.weight @ solution.weight.T, balanced) > 0.1


def test_the_name_has_every_number():
    model = replace(deep_linear._SQUARED[0], decays=(0.1, 0.2), bias=True)
    assert model.name == "MSE +b  M=2 n=(7,4,2,1) d=5  lw=0.1,0.2 lh=0.02"


@pytest.mark.slow
def test_the_whole_theorem():
    assert run_theorem("deep-linear", tolerance=1e-9, seed=3).ok
