"""The deep closed form: one layer against the known one, the scalar problem by brute force, thresholds."""

import math

import pytest
import torch

from etfhead.frames.deep_linear import deep_linear_geometry, deep_linear_loss, deep_strength
from etfhead.frames.imbalanced import orthogonal_geometry
from etfhead.frames.last_layer import simplex_geometry

COUNTS = [60, 40, 25, 12, 3]
EXACT = {"dtype": torch.float64}


@pytest.mark.parametrize("bias", [False, True])
def test_one_layer_is_the_orthogonal_geometry(bias):
    deep = deep_linear_geometry(COUNTS, weight_decays=[2e-2], feature_decay=1e-2, bias=bias)
    shallow = orthogonal_geometry(COUNTS, weight_decay=2e-2, feature_decay=1e-2, bias=bias)
    for one, other in zip(deep[:3], shallow[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_the_singular_values_solve_the_scalar_problem(depth):
    """min over sigma of the ridge cost of a direction plus the cheapest layers with that product."""
    total, feature_decay, decays = 100.0, 2e-3, [1e-3 * (m + 1) for m in range(depth)]
    for eigenvalue in (60.0, 9.0, 1.0, 0.05):
        eigenvalues = torch.tensor([eigenvalue], **EXACT)
        sigma = torch.cat([torch.zeros(1, **EXACT), torch.logspace(-6, 2, 400_001, **EXACT)])
        ridge = total * feature_decay
        price = depth / 2 * math.prod(decays) ** (1 / depth)
        cost = feature_decay / 2 * eigenvalue / (sigma.square() + ridge) + price * sigma ** (2 / depth)
        ours = deep_strength(eigenvalues, total, decays, feature_decay).sqrt()
        own = feature_decay / 2 * eigenvalue / (ours.square() + ridge) + price * ours ** (2 / depth)
        assert own.item() <= cost.min().item() + 1e-12
        torch.testing.assert_close(ours, sigma[cost.argmin()][None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_a_class_collapses_at_the_threshold_and_suddenly(depth):
    at = (depth - 1) ** ((depth - 1) / depth) / depth  # of b / mu
    total, decay = 10.0, 1e-2
    b = depth * total * (total * decay ** (depth + 1)) ** (1 / depth)
    below, above = (
        deep_strength(torch.tensor([b / (x * at)], **EXACT), total, [decay] * depth, decay).item()
        for x in (0.999, 1.001)
    )
    assert above == 0
    assert below > 0.5 * total * decay * (depth - 1)  # x^M = M - 1 at the threshold


def test_with_a_bias_and_equal_counts_it_is_the_simplex_at_any_depth():
    geometry = deep_linear_geometry([20] * 5, weight_decays=[1e-3] * 3, feature_decay=1e-3, bias=True)
    simplex = simplex_geometry(5).product
    for matrix in geometry[:3]:
        torch.testing.assert_close(matrix / matrix.norm(), simplex / simplex.norm(), rtol=0, atol=1e-13)


def test_more_layers_spread_the_lengths_more():
    ratios = []
    for depth in (1, 2, 3):
        gram = deep_linear_geometry([90, 30], weight_decays=[1e-4] * depth, feature_decay=1e-4).weight_gram
        ratios.append((gram[0, 0] / gram[1, 1]).item())
    assert ratios == sorted(ratios)
    assert ratios[0] == pytest.approx(math.sqrt(3), rel=0.01)


@pytest.mark.parametrize("bias", [False, True])
def test_the_loss_is_that_of_the_geometry(bias):
    decays, feature_decay = [3e-3, 1e-3], 2e-3
    options = {"weight_decays": decays, "feature_decay": feature_decay, "bias": bias}
    geometry, counts = deep_linear_geometry(COUNTS, **options), torch.tensor(COUNTS, **EXACT)
    total = counts.sum()
    offset = (counts / total)[:, None] if bias else 0.0
    error = geometry.product + offset - torch.eye(5, **EXACT)
    fit = (error.square().sum(0) @ counts) / (2 * total)
    values = torch.linalg.eigvalsh(geometry.weight_gram).clamp(min=0).sqrt()
    layers = math.sqrt(math.prod(decays)) * values.sum()  # M / 2 (prod)^(1/M) sum sigma^(2/M)
    features = feature_decay / 2 * (geometry.mean_gram.diagonal() @ counts)
    assert deep_linear_loss(COUNTS, **options) == pytest.approx((fit + layers + features).item(), rel=1e-7)


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([3, 0], {}, "class_counts=.*positive integers"),
        (COUNTS, {"weight_decays": []}, r"weight_decays=\[\]: expected one positive number for each layer"),
        (COUNTS, {"weight_decays": 0.1}, "weight_decays=0.1: expected one positive number for each layer"),
        (COUNTS, {"weight_decays": [0.1, 0.0]}, "weight_decay=0.0: expected a positive"),
        (COUNTS, {"feature_decay": -1.0}, "feature_decay=-1.0: expected a positive"),
    ],
)
def test_bad_input(counts, options, message):
    with pytest.raises(ValueError, match=message):
        deep_linear_geometry(counts, **{"weight_decays": [0.1], "feature_decay": 0.1, **options})
