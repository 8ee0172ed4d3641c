import copy
import io
import pickle

import numpy as np
import pytest
import torch

import etfhead.metrics
from etfhead.metrics import neural_collapse
from etfhead.metrics.memorization import memorization_figures
from etfhead.metrics.memorization_dilation import MemorizationDilation
from tests.metrics.processes import together

K, D = 4, 6


def sample(seed=0, n=240, rate=0.3, pull=0.6, dtype=torch.float64):
    """Training features whose wrong labels have pulled them part of the way, and clean test features."""
    g = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(K, D, generator=g, dtype=torch.float64) + 5
    y = torch.randint(K, (n,), generator=g)
    wrong = torch.rand(n, generator=g) < rate
    observed = torch.where(wrong, (y + torch.randint(1, K, (n,), generator=g)) % K, y)
    h = (1 - pull) * centres[y] + pull * centres[observed]
    h = h + 0.3 * torch.randn(n, D, generator=g, dtype=torch.float64)
    predictions = torch.where(torch.rand(n, generator=g) < 0.5, observed, y)
    y_test = torch.randint(K, (n // 2,), generator=g)
    test = centres[y_test] + 0.5 * torch.randn(n // 2, D, generator=g, dtype=torch.float64)
    return h.to(dtype), y, observed, predictions, test.to(dtype), y_test


def reference(h, y, observed, predictions, test, y_test):
    """Loops in NumPy, from the definitions."""
    h, y, o, p = (
        x.double().numpy() if x.is_floating_point() else x.numpy() for x in (h, y, observed, predictions)
    )
    clean = {c: h[(y == c) & (o == c)].mean(0) for c in range(K) if ((y == c) & (o == c)).any()}
    wrong = np.flatnonzero(y != o)
    pairs = [(a, b) for a in clean for b in clean if a != b]
    separation = np.mean([np.linalg.norm(clean[a] - clean[b]) for a, b in pairs])
    by_class = [sum(np.linalg.norm(h[i] - clean[c]) for i in wrong if y[i] == c) for c in clean]
    distances = [np.linalg.norm(h[i] - clean[y[i]]) for i in wrong]
    bias, share = [], []
    for i in wrong:
        way = clean[o[i]] - clean[y[i]]
        bias.append((h[i] - clean[y[i]]) @ way / np.linalg.norm(way))
        share.append((h[i] - clean[y[i]]) @ way / (way @ way))
    out = {
        "noise_rate": len(wrong) / len(y),
        "corrupted": len(wrong),
        "separation": separation,
        "memorization_sum": np.mean(by_class),
        "memorization": np.mean(distances),
        "memorization_relative": np.mean(distances) / separation,
        "corruption_bias": np.mean(bias),
        "corruption_bias_relative": np.mean(share),
        "memorized_fraction": (p[wrong] == o[wrong]).mean(),
        "recovered_fraction": (p[wrong] == y[wrong]).mean(),
    }
    nc1 = lambda x, t: neural_collapse(torch.as_tensor(x), torch.as_tensor(t), K)["nc1"].item()  # noqa: E731
    out["nc1_train_true"], out["nc1_train_observed"] = nc1(h, y), nc1(h, o)
    out["nc1_train_clean"], out["dilation"] = nc1(h[y == o], y[y == o]), nc1(test.double(), y_test)
    t, s = test.double().numpy(), y_test.numpy()
    means = {c: t[s == c].mean(0) for c in set(s.tolist())}
    square = np.mean([np.sum((x - means[c]) ** 2) for x, c in zip(t, s.tolist(), strict=True)])
    apart = np.mean([np.linalg.norm(means[a] - means[b]) for a in means for b in means if a != b])
    out["dilation_relative"] = square**0.5 / apart
    return out


def close(figures, expected, rtol=1e-9):
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            torch.as_tensor(figures[name], dtype=torch.float64),
            torch.as_tensor(value, dtype=torch.float64),
            rtol=rtol,
            atol=1e-12,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def measured(data, size, *, metric=None, order=None):
    h, y, o, p, test, y_test = data
    metric = metric or MemorizationDilation(K)
    order = torch.arange(len(y)) if order is None else order
    for rows in order.split(size):
        metric.update(h[rows], y[rows], o[rows], p[rows])
    for rows in torch.arange(len(y_test)).split(size):
        metric.update(test[rows], y_test[rows])
    return metric


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_figures_are_those_of_the_definitions(dtype):
    data = sample(dtype=dtype)
    expected = reference(*data)
    h, y, o, p, test, y_test = data
    close(memorization_figures(h, y, o, K, predictions=p, test_features=test, test_labels=y_test), expected)
    close(measured(data, 37).compute(), expected)


def test_batches_order_and_merged_shares_do_not_matter():
    data = sample(seed=1)
    expected = measured(data, 1000).compute()
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    close(measured(data, 7, order=order).compute(), expected)
    one, two = MemorizationDilation(K), MemorizationDilation(K)
    h, y, o, p, test, y_test = data
    one.update(test[:50], y_test[:50])  # test samples may come first
    one.update(h[:100], y[:100], o[:100], p[:100])
    two.update(h[100:], y[100:], o[100:], p[100:])
    two.update(test[50:], y_test[50:])
    one.merge_state(two)
    close(one.compute(), expected)
    empty = MemorizationDilation(K)
    empty.merge_state(one)
    empty.merge_state(MemorizationDilation(K))
    close(empty.compute(), expected)


def test_processes_add_up():
    data = sample(seed=2)
    h, y, o, p, test, y_test = data
    metrics = [MemorizationDilation(K) for _ in range(3)]  # the third has seen nothing
    metrics[0].update(h[:90], y[:90], o[:90], p[:90])
    metrics[1].update(h[90:], y[90:], o[90:], p[90:])
    metrics[1].update(test, y_test)
    assert together(metrics) == []
    expected = reference(*data)
    for metric in metrics:
        assert metric.kept_features == []
        close(metric.compute(), expected)


def test_the_scale_of_features_cancels_in_relative_figures():
    h, y, o, p, test, y_test = data = sample()
    plain = measured(data, 60).compute()
    scaled = measured((7 * h + 2, y, o, p, 7 * test + 2, y_test), 60).compute()
    factors = {"separation": 7, "memorization_sum": 7, "memorization": 7, "corruption_bias": 7}
    close(scaled, {name: factors.get(name, 1) * value for name, value in plain.items()}, rtol=1e-7)


@pytest.mark.parametrize("pull", [0.0, 0.5, 1.0])
def test_corruption_bias_is_how_far_features_have_gone(pull):
    figures = measured(sample(n=4000, pull=pull), 1000).compute()
    assert figures["corruption_bias_relative"].item() == pytest.approx(pull, abs=0.02)


def test_without_test_samples_or_wrong_labels_or_predictions_figures_are_left_out():
    h, y, o, _p, test, y_test = sample()
    without = memorization_figures(h, y, o, K)
    assert not {"dilation", "memorized_fraction"} & set(without)
    right = memorization_figures(h, y, y, K)
    assert right["noise_rate"] == right["memorization_sum"] == 0
    assert not {"memorization", "memorization_relative", "corruption_bias"} & set(right)
    torch.testing.assert_close(right["nc1_train_true"], right["nc1_train_observed"])
    only = MemorizationDilation(K)
    only.update(test, y_test)
    assert set(only.compute()) == {"dilation", "dilation_relative"}


def test_logits_are_predictions():
    h, y, o, p, *_ = sample()
    logits = torch.nn.functional.one_hot(p, K).double()
    close(
        memorization_figures(h, y, o, K, predictions=logits), memorization_figures(h, y, o, K, predictions=p)
    )


def test_a_class_whose_labels_are_all_wrong_has_no_mean_to_be_far_from():
    h = torch.tensor([[0.0], [0.1], [1.0], [1.1], [5.0]])
    figures = memorization_figures(h, torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 0]), 3)
    assert figures["corrupted"] == 1
    assert figures["memorization_sum"] == 0
    assert "memorization" not in figures


def test_reset_forward_copies_pickles_and_plots():
    data = sample()
    metric = measured(data, 60)
    expected = metric.compute()
    close(copy.deepcopy(metric).compute(), expected)
    close(pickle.loads(pickle.dumps(metric)).compute(), expected)
    file = io.BytesIO()
    figure, ax = metric.plot()
    figure.savefig(file)
    assert len(ax.lines) == 4
    metric.reset()
    assert metric.in_features == 0
    assert metric.kept_features == []
    h, y, o, p, *_ = data
    batch = metric(h, y, o, p)  # the figures of this batch, which is also added
    close(batch, metric.compute())


def test_states_outlive_failures_casts_and_inference_mode():
    data = sample()
    h, y, o, p, test, y_test = data
    metric = MemorizationDilation(K)
    with torch.inference_mode():
        metric.update(h[:100], y[:100], o[:100], p[:100])
    metric.to(torch.bfloat16)
    with pytest.raises(ValueError, match="at least two"):
        metric(h[y == 0], y[y == 0], y[y == 0])  # has no figures of its own, and is added
    metric.update(h[100:], y[100:], o[100:], p[100:])
    metric.update(test, y_test)
    again = torch.cat([torch.arange(240), (y == 0).nonzero()[:, 0]])
    expected = memorization_figures(
        h[again],
        y[again],
        torch.cat([o, y[y == 0]]),
        K,
        predictions=p[again],
        test_features=test,
        test_labels=y_test,
    )
    close(metric.compute(), expected)
    other = MemorizationDilation(K)
    other.update(h[:, :3], y, o)
    with pytest.raises(ValueError, match="incoming_state"):
        metric.merge_state(other)


H = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((H, Y + 1), "labels: expected classes from 0 to 3"),
        ((H, Y, Y + 1), "labels: expected classes from 0 to 3"),
        ((H, Y, Y[:2]), "labels: expected 4 integer classes"),
        ((H.flatten(), Y, Y), "features: expected floats"),
        ((H * torch.nan, Y, Y), "4 of 4 samples hold NaN"),
        ((H, Y, Y, Y[:2]), "predictions: expected 4 integer classes"),
        ((H, Y, Y, Y.float()), "predictions: expected 4 integer classes"),
    ],
)
def test_bad_batches_are_refused_and_add_nothing(arguments, message):
    metric = MemorizationDilation(K)
    with pytest.raises(ValueError, match=message):
        metric.update(*arguments)
    assert metric.in_features == 0
    with pytest.raises(ValueError, match="no sample yet"):
        metric.compute()


def test_other_bad_input():
    with pytest.raises(ValueError, match="num_classes"):
        MemorizationDilation(1)
    with pytest.raises(ValueError, match="pass both or neither"):
        memorization_figures(H, Y, Y, K, test_features=H)
    with pytest.raises(ValueError, match="at least two"):
        memorization_figures(H, Y, torch.tensor([0, 0, 1, 2]), K)


def test_public_names():
    if "MemorizationDilation" in etfhead.metrics.__all__:
        assert etfhead.metrics.MemorizationDilation is MemorizationDilation
        assert etfhead.metrics.memorization_figures is memorization_figures
