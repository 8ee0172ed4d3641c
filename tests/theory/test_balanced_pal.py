"""Closed forms against the loss itself: the predicted point is stationary and costs what is predicted."""

import math

import pytest
import torch

from etfhead.theory.balanced_pal import BalancedPal

SETTINGS = [
    BalancedPal(5, {1: 4, 2: 2, 3: 1}, 5, 5e-3, 1e-4),
    BalancedPal(4, {0: 3, 1: 1, 3: 2, 4: 1}, 4, 2e-3, 1e-3, normalize=True),
    BalancedPal(6, {2: 1, 5: 1}, 6, None, 1e-3, lambda_b=0.1),
]


def predicted_point(setting):
    """Free variables at the theorem's optimum, W = sqrt(rho) (I - 11^T/K)."""
    model = setting.model
    etf = torch.eye(setting.num_classes, dtype=torch.float64) - 1 / setting.num_classes
    point = {}
    if setting.lambda_w is not None:
        point["weight"] = math.sqrt(setting.rho) * etf
    if setting.lambda_b is not None:
        point["bias"] = torch.zeros(setting.num_classes, dtype=torch.float64)
    weight, gaps = model.weight(point), setting.gaps()
    rows = [gaps.get(len(s), 0.0) / setting.rho * weight[list(s)].sum(0) for s in model.label_sets]
    point["features"] = torch.stack(rows)
    return point


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_predicted_point_is_stationary_and_costs_what_is_predicted(setting):
    point = {name: value.requires_grad_() for name, value in predicted_point(setting).items()}
    loss = setting.model.loss(point)
    assert loss.item() == pytest.approx(setting.loss(), rel=1e-13)
    for gradient in torch.autograd.grad(loss, list(point.values())):
        assert gradient.abs().max() < 1e-14


def test_rho_of_a_fixed_etf_is_that_of_unit_rows():
    assert SETTINGS[2].rho == pytest.approx(6 / 5)


def test_above_the_threshold_everything_is_zero():
    setting = BalancedPal(4, {1: 3}, 4, 0.3, 0.3)
    assert setting.kappa == setting.rho == 0
    assert setting.gaps() == {1: 0.0}
    assert setting.loss() == pytest.approx(math.log(4))


def test_the_name_has_every_number():
    name = BalancedPal(6, {1: 3, 2: 2}, 5, None, 1e-3, lambda_b=0.02, normalize=True).name
    assert name == "PAL/m  K=6 d=5 n={1:3, 2:2}  W = ETF lh=0.001 lb=0.02"
    assert "lw=0.005" in SETTINGS[0].name
