"""What all metrics share whose states are sized by the first batch."""

import pytest
import torch

from etfhead.frames import SimplexFrame
from etfhead.metrics import (
    FrameDistance,
    MemorizationDilation,
    MultiLabelCollapse,
    NeuralCollapse,
    RegressionCollapse,
)
from tests.metrics.processes import together

K, D = 3, 5
LABELS = torch.arange(24) % K
FEATURES = torch.randn(24, D, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(K, D)[LABELS]
HOT = torch.eye(K, dtype=torch.int64)[LABELS]

METRICS = {
    "collapse": (lambda: NeuralCollapse(K, weight=torch.eye(K, D)), (LABELS,)),
    "regression": (lambda: RegressionCollapse(K), (FEATURES[:, :K].square(),)),
    "memorization": (lambda: MemorizationDilation(K), (LABELS,)),
    "label_sets": (lambda: MultiLabelCollapse(K), (HOT,)),
    "distance": (lambda: FrameDistance(SimplexFrame(K, D)), (LABELS,)),
}


def states(metric):
    return {name: getattr(metric, name) for name in metric._defaults if name != "apart"}


@pytest.mark.parametrize("name", METRICS)
def test_a_process_without_a_batch_gets_the_states_of_the_others(name):
    make, rest = METRICS[name]
    seen, other, empty = make(), make(), make()
    assert empty.in_features == 0
    seen.update(FEATURES[:14], *(part[:14] for part in rest))
    other.update(FEATURES[14:], *(part[14:] for part in rest))
    assert seen.in_features == D
    assert together([empty, seen, other]) == []
    whole = make()
    whole.update(FEATURES, *rest)
    assert together([whole]) == []
    for metric in (empty, seen, other):
        assert metric.in_features == D
        for key, value in states(whole).items():
            torch.testing.assert_close(states(metric)[key], value, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", METRICS)
def test_processes_without_any_batch_stay_as_they_are(name):
    metrics = [METRICS[name][0]() for _ in range(2)]
    assert together(metrics) == []
    fresh = METRICS[name][0]()
    for metric in metrics:
        assert metric.in_features == 0
        for key, value in states(fresh).items():
            torch.testing.assert_close(states(metric)[key], value)


@pytest.mark.parametrize("name", METRICS)
def test_features_of_another_width_are_refused_on_every_process(name):
    make, rest = METRICS[name]
    one, two = make(), make()
    one.update(FEATURES, *rest)
    two.weight = None
    two.update(FEATURES[:, :4], *rest)
    errors = together([one, two])
    assert errors == ["features: processes have seen different widths, [4, 5]"] * 2


@pytest.mark.parametrize("name", METRICS)
def test_reset_forgets_the_width(name):
    make, rest = METRICS[name]
    metric = make()
    metric.update(FEATURES, *rest)
    metric.reset()
    assert metric.in_features == 0
    metric.weight = None
    metric.update(FEATURES[:, :4], *rest)
    assert metric.in_features == 4
