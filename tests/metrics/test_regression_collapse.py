"""Neural regression collapse against a naive reference from the definitions, and the states of its metric."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from etfhead.frames import RegressionFrame
from etfhead.metrics.regression_figures import weight_gram_distance
from etfhead.metrics.regression_functional import regression_collapse
from etfhead.metrics.regression_metric import RegressionCollapse
from tests.metrics.processes import together

EXACT = {"dtype": torch.float64}


def samples(count=60, n=3, d=7, *, noise=0.3, offset=0.5, seed=0, dtype=torch.float64):
    """Correlated targets, features that hold them and noise about a mean, and a weight that is neither's."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=generator, **EXACT)
    targets = torch.randn(count, n, generator=generator, **EXACT) @ mix + 2
    into = torch.randn(n, d, generator=generator, **EXACT)
    features = targets @ into + offset + noise * torch.randn(count, d, generator=generator, **EXACT)
    weight = torch.randn(n, d, generator=generator, **EXACT)
    return features.to(dtype), targets.to(dtype), weight.to(dtype)


def distance_at(gamma, gram, root):
    target = root - math.sqrt(gamma) * np.eye(len(root))
    return np.sum((gram / np.linalg.norm(gram) - target / np.linalg.norm(target)) ** 2)


def reference(features, targets, weight):
    """From the definitions: centred principal components, normalised features, a grid of gammas."""
    H, Y, W = (x.double().numpy() for x in (features, targets, weight))
    n = Y.shape[1]
    unit = H / np.linalg.norm(H, axis=1, keepdims=True)
    components = np.linalg.svd(H - H.mean(0))[2][:n]
    rows = np.linalg.qr(W.T)[0].T
    values, vectors = np.linalg.eigh(np.cov(Y, rowvar=False, ddof=0).reshape(n, n))
    root = (vectors * np.sqrt(values)) @ vectors.T
    grid = np.linspace(0, math.sqrt(values[0]), 4001)[:-1] ** 2
    return {
        "nrc1": np.mean(np.sum((unit - unit @ components.T @ components) ** 2, 1)),
        "nrc2": np.mean(np.sum((unit - unit @ rows.T @ rows) ** 2, 1)),
        "nrc3": min(distance_at(gamma, W @ W.T, root) for gamma in grid) if n > 1 else None,
    }


def streamed(features, targets, weight=None, sizes=(7,)):
    metric = RegressionCollapse(targets.shape[1], weight)
    start = 0
    while start < len(features):
        for size in sizes:
            metric.update(features[start : start + size], targets[start : start + size])
            start += size
    return metric


def assert_figures(found, expected, rtol=1e-12, atol=1e-14):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value.double(), rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize(("n", "d"), [(1, 5), (2, 2), (2, 9), (3, 7), (5, 6)])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_every_figure_is_that_of_the_definitions(n, d, offset):
    features, targets, weight = samples(n=n, d=d, offset=offset, seed=n)
    found, expected = (
        regression_collapse(features, targets, n, weight=weight),
        reference(features, targets, weight),
    )
    assert found["nrc1"].item() == pytest.approx(expected["nrc1"], abs=1e-13)
    assert found["nrc2"].item() == pytest.approx(expected["nrc2"], abs=1e-13)
    assert ("nrc3" in found) == ("gamma" in found) == (n > 1)
    if n > 1:
        # The grid's best is next to the best.
        assert found["nrc3"].item() == pytest.approx(expected["nrc3"], abs=1e-6)
        assert found["nrc3"].item() <= expected["nrc3"] + 1e-12


@pytest.mark.parametrize("seed", range(12))
def test_no_gamma_within_its_limits_is_better(seed):
    generator = torch.Generator().manual_seed(seed)
    n = 2 + seed % 3
    root = torch.randn(n, n + 1, generator=generator, **EXACT)
    sigma = root @ root.T
    # Half of the weights near the optimum, where gamma lies inside; half anywhere.
    gram = RegressionFrame(n, n, covariance=sigma, weight_decay=0.05, feature_decay=0.05).root()
    weight = gram + (0.1 if seed % 2 else 3.0) * torch.randn(n, n, generator=generator, **EXACT)
    found, gamma = weight_gram_distance(weight, sigma)
    values, vectors = np.linalg.eigh(sigma.numpy())
    target = (vectors * np.sqrt(values)) @ vectors.T
    assert 0 <= gamma <= values[0] * (1 + 1e-12)
    product = (weight @ weight.T).numpy()
    assert found.item() == pytest.approx(distance_at(gamma.item(), product, target), abs=1e-12)
    grid = [distance_at(share**2 * values[0], product, target) for share in np.linspace(0, 0.9999, 500)]
    assert found.item() <= min(grid) + 1e-12


def test_gamma_of_the_optimum_is_the_product_of_the_decays():
    sigma = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.8, 0.2], [0.0, 0.2, 0.6]], **EXACT)
    frame = RegressionFrame(3, 8, covariance=sigma, weight_decay=0.3, feature_decay=0.2)
    distance, gamma = weight_gram_distance(frame.matrix(), sigma)
    assert distance < 1e-24
    assert gamma.item() == pytest.approx(0.06)


def test_gamma_is_clipped_and_equal_variances_leave_it_open():
    sigma = torch.diag(torch.tensor([4.0, 1.0, 0.5], **EXACT))
    distance, gamma = weight_gram_distance(torch.eye(3, **EXACT), sigma)
    assert (gamma, distance > 0.05) == (0, True)
    distance, gamma = weight_gram_distance(torch.diag(torch.tensor([1.0, 1e-3, 1e-4], **EXACT)), sigma)
    assert gamma.item() == pytest.approx(0.5, rel=1e-15)
    distance, gamma = weight_gram_distance(2 * torch.eye(3, **EXACT), 5 * torch.eye(3, **EXACT))
    assert (round(distance.item(), 15), gamma.item()) == (0, 0)


def test_full_collapse_is_zero_and_scale_and_rotation_leave_all():
    _, targets, _ = samples()
    frame = RegressionFrame(3, 7, covariance=torch.cov(targets.T, correction=0))
    weight = frame.matrix()
    features = (targets - targets.mean(0)) @ torch.linalg.pinv(weight).T
    collapsed = regression_collapse(features, targets, 3, weight=weight)
    assert max(collapsed[name].item() for name in ("nrc1", "nrc2", "nrc3")) < 1e-14
    features, targets, weight = samples()
    plain = regression_collapse(features, targets, 3, weight=weight)
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(9), **EXACT)).Q
    moved = regression_collapse(1e3 * features @ turn, targets + 50, 3, weight=1e-3 * weight @ turn)
    assert_figures(moved, plain, rtol=1e-9)


def test_components_are_of_centred_features_and_projections_are_not():
    _, targets, _ = samples(n=1, d=2)
    features = torch.cat([torch.full_like(targets, 100.0), targets], 1)
    # All the variance is along the second axis, almost all of the length along the first.
    assert regression_collapse(features, targets, 1)["nrc1"] > 0.99
    weight = torch.tensor([[1.0, 0.0]], **EXACT)
    assert regression_collapse(features, targets, 1, weight=weight)["nrc2"] < 0.01


def test_what_weights_and_zeros_leave_out():
    features, targets, weight = samples()
    assert set(regression_collapse(features, targets, 3)) == {"nrc1", "zero_features"}
    zero = regression_collapse(features, targets, 3, weight=torch.zeros_like(weight))
    assert set(zero) == {"nrc1", "zero_features"}
    features[:5] = 0
    assert regression_collapse(features, targets, 3)["zero_features"] == 5
    low_rank = weight.clone()
    low_rank[2] = low_rank[0] + low_rank[1]
    within = targets @ low_rank
    assert regression_collapse(within, targets, 3, weight=low_rank)["nrc2"] < 1e-12


def test_batches_order_and_shares_do_not_matter():
    features, targets, weight = samples(offset=30.0)
    whole = regression_collapse(features, targets, 3, weight=weight)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
    assert_figures(streamed(features[order], targets[order], weight, (1, 5, 0)).compute(), whole, rtol=1e-9)
    first, second = streamed(features[:20], targets[:20], weight), streamed(features[20:], targets[20:])
    empty = RegressionCollapse(3, weight)
    empty.merge_state(RegressionCollapse(3))
    empty.merge_state(first)
    empty.merge_state({name: getattr(second, name) for name in second._defaults})
    assert_figures(empty.compute(), whole, rtol=1e-9)


def test_a_large_mean_and_single_precision_lose_no_digits():
    features, targets, weight = samples(noise=1e-4, offset=0.0, dtype=torch.float32)
    features, targets = features + 100, targets + 1000
    metric = streamed(features, targets, weight)
    expected = reference(features, targets, weight)
    assert metric.unit_products.dtype == torch.float64
    for name in ("nrc1", "nrc2"):
        assert metric.compute()[name].item() == pytest.approx(expected[name], rel=1e-6)


@pytest.mark.parametrize("seen", [(20, 40), (0, 60)])
def test_processes_add_up(seen):
    features, targets, weight = samples(offset=10.0)
    whole = regression_collapse(features, targets, 3, weight=weight)
    metrics = [RegressionCollapse(3, weight) for _ in seen]
    for metric, part, answers in zip(metrics, features.split(seen), targets.split(seen), strict=True):
        if len(part):
            metric.update(part, answers)
    assert together(metrics) == []
    for metric in metrics:
        metric._update_count = 1
        assert_figures(metric.compute(), whole, rtol=1e-9)


def test_reset_copies_pickles_casts_and_forward():
    features, targets, weight = samples()
    metric = streamed(features, targets, weight)
    expected = metric.compute()
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone().half()):
        assert_figures(other.compute(), expected)
    metric.reset()
    assert metric.in_features == 0
    batch = metric(features[:30], targets[:30])
    assert_figures(batch, regression_collapse(features[:30], targets[:30], 3, weight=weight))
    with torch.inference_mode():
        metric.update(features[30:40], targets[30:40])
    metric.update(features[40:].requires_grad_(), targets[40:])
    assert_figures(metric.compute(), expected, rtol=1e-9)


def test_a_weight_that_trains_is_followed_and_can_be_set():
    features, targets, weight = samples()
    trained = torch.nn.Parameter(weight.clone())
    metric = streamed(features, targets, trained)
    with torch.no_grad():
        trained.copy_(torch.flip(weight, (1,)))
    assert_figures(metric.compute(), regression_collapse(features, targets, 3, weight=trained.detach()))
    metric.set_weight(weight)
    assert_figures(metric.compute(), regression_collapse(features, targets, 3, weight=weight))
    with pytest.raises(ValueError, match=r"weight: expected shape \(3, 7\)"):
        metric.set_weight(weight[:, :5])


def test_one_target_may_be_a_vector_and_any_number_type():
    features, _, weight = samples(n=1)
    targets = torch.arange(60)
    metric = RegressionCollapse(1, weight)
    metric.update(features, targets)
    assert_figures(
        metric.compute(), regression_collapse(features, targets[:, None].float(), 1, weight=weight)
    )


def test_plot_draws_the_three_figures():
    features, targets, weight = samples()
    metric = streamed(features, targets, weight)
    _, axis = metric.plot()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["nrc1", "nrc2", "nrc3"]
    _, axis = metric.plot([metric.compute()] * 2)
    assert len(axis.lines) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, y: (h[0], y), r"features: expected floats of shape \(B, d\)"),
        (lambda h, y: (h.tolist(), y), "features: expected floats"),
        (lambda h, y: (h[:, :2], y), "num_targets=3 directions"),
        (lambda h, y: (h, y[:, :2]), r"targets: expected real numbers of shape \(60, 3\), got \(60, 2\)"),
        (lambda h, y: (h, y[:50]), r"got \(50, 3\)"),
        (lambda h, y: (h, None), "got NoneType"),
        (
            lambda h, y: (h, y.index_fill(0, torch.tensor([3]), torch.nan)),
            "targets: 1 of 60 samples hold NaN",
        ),
        (lambda h, y: (h.index_fill(0, torch.tensor([3]), torch.inf), y), "features: 1 of 60 samples"),
        (lambda h, y: (h[:3], y[:3]), "3 samples do not show the principal components of 3 targets"),
        (lambda h, y: (h[:0], y[:0]), "0 samples"),
        (
            lambda h, y: (h, y.index_fill(1, torch.tensor([1]), 0.1)),
            r"targets: \[1\] of 3 are the same number",
        ),
        (lambda h, y: (torch.full_like(h, 0.1), y), "features: they are the same in every sample"),
        (lambda h, y: (torch.zeros_like(h), y), "features: they are the same in every sample"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_added(change, message):
    features, targets, weight = samples()
    bad = change(features, targets)
    with pytest.raises(ValueError, match=message):
        regression_collapse(*bad, 3, weight=weight if message != "num_targets=3 directions" else None)
    metric = RegressionCollapse(3)
    with pytest.raises(ValueError, match=message):
        metric(*bad)


def test_what_does_not_fit_the_batches_before_is_refused():
    features, targets, weight = samples()
    metric = RegressionCollapse(3, weight[:, :5])
    with pytest.raises(ValueError, match=r"weight: expected shape \(3, 7\)"):
        metric.update(features, targets)
    assert metric.in_features == 0
    metric.update(features[:, :5], targets)
    with pytest.raises(ValueError, match="expected 5 features, as in the batches before, got 7"):
        metric.update(features, targets)
    with pytest.raises(ValueError, match="num_targets=0"):
        RegressionCollapse(0)
