"""Memorization and dilation of a model on noisy labels, measured in passing."""

import numpy as np
import pytest
import torch
from torch import nn

from etfhead import ETFHead
from etfhead.experiment.training.layer_features import layer_features
from etfhead.experiment.training.memorization import MemorizationMonitor, noisy_subset
from etfhead.metrics import memorization_figures


def batches(n, *labels, size=7, seed=0):
    images = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return [(images[i : i + size], *(each[i : i + size] for each in labels)) for i in range(0, n, size)]


def noisy(n=40, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    true = np.arange(n) % classes
    observed = np.where(rng.random(n) < 0.3, (true + 1) % classes, true)
    return torch.from_numpy(observed), torch.from_numpy(true)


def small_model(classes=3):
    torch.manual_seed(0)
    trunk = [nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*trunk, ETFHead(8, classes))


def test_the_figures_are_those_of_the_functions_on_the_same_features():
    model = small_model()
    observed, true = noisy()
    held_true = torch.arange(20) % 3
    monitor = MemorizationMonitor(
        model, batches(40, observed, true), batches(20, torch.zeros(20), held_true, seed=1), 3
    )
    figures = monitor.measure()
    model.eval()
    with torch.no_grad():
        images = torch.cat([batch[0] for batch in batches(40, true)])
        held = torch.cat([batch[0] for batch in batches(20, held_true, seed=1)])
        features, test = (model[5].features_behind_neck(model[:5](x)) for x in (images, held))
        expected = memorization_figures(
            features, true, observed, 3, predictions=model(images), test_features=test, test_labels=held_true
        )
    assert figures.pop("md_time") > 0
    assert figures == {f"md_{key}": pytest.approx(float(value)) for key, value in expected.items()}


def test_the_model_and_the_random_state_stay_as_they_were():
    model = small_model().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    observed, true = noisy()
    state = torch.get_rng_state()
    MemorizationMonitor(model, batches(40, observed, true), None, 3).measure()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_whose_features_are_all_one_has_no_figures():
    model = small_model()
    nn.init.zeros_(model[1].weight)
    observed, true = noisy()
    figures = MemorizationMonitor(model, batches(40, observed, true), None, 3).measure()
    assert figures.keys() == {"md_time"}


def test_images_without_finite_features_are_left_out():
    observed, true = noisy()
    given = batches(40, observed, true)
    given[0][0][2] = float("nan")
    figures = MemorizationMonitor(small_model(), given, None, 3).measure()
    kept = np.delete(np.arange(40), 2)
    assert figures["md_noise_rate"] == pytest.approx(float((observed != true)[kept].double().mean()))


def test_tick_counts_images_and_may_stop():
    observed, true = noisy()
    seen = []
    MemorizationMonitor(small_model(), batches(40, observed, true), batches(10, true[:10]), 3).measure(
        tick=seen.append
    )
    assert sum(seen) == 50

    def stop(images):
        raise KeyboardInterrupt

    model = small_model()
    with pytest.raises(KeyboardInterrupt):
        layer_features(model, model[5], batches(40, true), lambda *all_: None, stop)
    assert not model[5]._forward_hooks


@pytest.mark.parametrize("limit", [1, 37, 200, 10_000])
def test_a_subset_keeps_the_shares_of_classes_and_of_wrong_labels(limit):
    rng = np.random.default_rng(1)
    true = rng.integers(0, 4, 1000)
    observed = np.where(rng.random(1000) < 0.25, (true + 2) % 4, true)
    at = noisy_subset(observed, true, limit, seed=3)
    assert len(at) == min(max(limit, 8), 1000)
    assert (np.diff(at) > 0).all()
    assert (at == noisy_subset(observed, true, limit, seed=3)).all()
    if limit > 100:
        for k in range(4):
            for wrong in (False, True):
                share = [((t == k) & ((o != t) == wrong)).mean() for o, t in _both(observed, true, at)]
                assert share[0] == pytest.approx(share[1], abs=1 / 200)


def _both(observed, true, at):
    return [(observed, true), (observed[at], true[at])]


def test_a_subset_without_wrong_labels():
    true = np.repeat([0, 1], 10)
    assert len(noisy_subset(true, true, 6, 0)) == 6
