"""Neural regression collapse in the model: small cases, and checks that fail on a wrong prediction."""

import functools
from dataclasses import replace

import pytest
import torch

from etfhead.theory import regression, run_theorem
from etfhead.theory.regression import THEOREM
from etfhead.theory.regression_model import RegressionModel, drawn_targets

CASES = {case.name.partition(":")[0]: case for case in THEOREM.cases}
QUICK = ["correlated", "one target", "2 of 3 variances above c", "one-hot 6/3/2", "c above every variance"]


@functools.cache
def solved(name):
    return CASES[name].run(1e-7, 1)


@pytest.mark.parametrize("name", QUICK)
def test_every_predicted_figure_is_found(name):
    for check in solved(name).checks:
        assert check.ok, f"{check.what}: {check.predicted} predicted, {check.found} found"


def test_the_cases_span_what_they_must():
    assert len([case for case in THEOREM.cases if "ReLU" not in case.name]) >= 6
    assert {"one target", "d < n", "no bias", "mean over targets (mse_loss / 2)"} <= set(CASES)
    figures = {check.what for check in solved("correlated").checks}
    assert figures == {
        "loss",
        "rank of W",
        "M lw |W|^2 / (lh |H|^2)",
        "WW^T",
        "H of W",
        "residual covariance",
        "b = mean of y",
        "NRC1",
        "NRC2",
    }
    rank = [check for check in solved("2 of 3 variances above c").checks if check.what == "rank of W"]
    assert rank[0].predicted == rank[0].found == 2


@pytest.mark.parametrize("name", regression._MODELS)
def test_the_predicted_point_is_stationary_and_costs_what_is_predicted(name):
    model = regression._MODELS[name]
    values, vectors = torch.linalg.eigh(model.predicted_gram)
    kept = min(model.num_targets, model.in_features)
    root = torch.zeros(model.num_targets, model.in_features, dtype=torch.float64)
    root[:, :kept] = vectors[:, -kept:] * values[-kept:].clamp(min=0).sqrt()
    point = {"weight": root, "features": model.predicted_features(root)}
    if model.bias:
        point["bias"] = model.mean.clone()
    for value in point.values():
        value.requires_grad_()
    loss = model.loss(point)
    assert loss.item() == pytest.approx(model.predicted_loss(), rel=1e-12)
    for gradient in torch.autograd.grad(loss, list(point.values())):
        assert gradient.abs().max() < 1e-9  # an eigenvalue of 1e-20 for 0 has a root of 1e-10
    residual = model.residual(point)
    found = residual.T @ residual / model.samples
    torch.testing.assert_close(found, model.predicted_residual_covariance(), rtol=1e-9, atol=1e-12)


def test_the_loss_of_the_uncollapsed_case_is_the_corollary():
    # n c / 2 + sqrt(c) tr(Sigma^(1/2) - sqrt(c) I), by hand for uncorrelated targets.
    model = RegressionModel(drawn_targets(torch.diag(torch.tensor([4.0, 1.0]).double()), 8), 3, 0.04, 0.01)
    assert model.predicted_loss() == pytest.approx(2 * 4e-4 / 2 + 0.02 * (3 - 2 * 0.02))


def test_mse_loss_is_the_model_with_a_mean_over_targets():
    model = regression._MODELS["mean over targets (mse_loss / 2)"]
    generator = torch.Generator().manual_seed(0)
    point = {name: torch.randn(shape, generator=generator).double() for name, shape in model.shapes.items()}
    outputs = torch.nn.functional.linear(point["features"], point["weight"], point["bias"])
    fit = torch.nn.functional.mse_loss(outputs, model.targets) / 2
    energy = model.lambda_h * point["features"].square().sum() / model.samples
    decay = (energy + model.lambda_w * point["weight"].square().sum()) / 2
    assert model.loss(point).item() == pytest.approx((fit + decay).item())


def test_forgetting_the_mean_over_targets_fails(monkeypatch):
    result = solved("mean over targets (mse_loss / 2)")
    assert all(check.ok for check in result.checks)
    assert [finding.value > 0.01 for finding in result.findings] == [True, True]
    monkeypatch.setattr(RegressionModel, "threshold", property(lambda model: model.lambda_w * model.lambda_h))
    failed = CASES["mean over targets (mse_loss / 2)"].run(1e-6, 1).checks
    assert not next(check for check in failed if check.what == "loss").ok


def test_a_wrong_prediction_fails(monkeypatch):
    right = regression.RegressionModel.predicted_gram.func
    wrong = property(lambda model: right(model) * (1 + 3e-5))
    monkeypatch.setattr(RegressionModel, "predicted_gram", wrong)
    failed = {check.what for check in CASES["one target"].run(1e-5, 0).checks if not check.ok}
    assert failed == {"WW^T"}


def test_without_decay_a_family_of_minima_has_not_collapsed():
    result = solved("no decay")
    assert all(check.ok for check in result.checks)
    found = {finding.what: finding.value for finding in result.findings}
    assert found["NRC1"] > 0.01
    assert found["NRC2 of H_0"] < 1e-12
    assert found["NRC2 of H_10"] > 0.9
    decayed = regression._free_case(replace(regression._CORRELATED, lambda_w=0.0), 1e-6, 0)
    assert not all(check.ok for check in decayed.checks)


def test_relu_features_cost_more_and_do_not_collapse():
    result = solved("ReLU features, n=1")
    found = {finding.what: finding.value for finding in result.findings}
    assert result.checks == ()
    assert found["lowest loss"] > 1.1 * found["signed features"]
    assert found["NRC1, H >= 0"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_the_whole_theorem():
    assert run_theorem("regression", tolerance=1e-9, seed=3).ok
