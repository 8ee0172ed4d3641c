import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from etfhead.experiment.training.regression_monitor import RegressionMonitor
from etfhead.heads import RegressionHead
from etfhead.metrics import regression_collapse


class Net(nn.Module):
    """A model whose last layer the search finds by timm's accessor."""

    def __init__(self, head):
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Dropout(0.5))
        self.head = head

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(self.trunk(x))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, 1, 1, generator=generator)
    return x, x.flatten(1) @ torch.randn(4, 2, generator=generator)


@pytest.mark.parametrize("fixed", [False, True])
def test_it_measures_the_features_behind_the_trunk(data, fixed):
    x, y = data
    torch.manual_seed(0)
    model = Net(RegressionHead(6, 2, targets=y, neck="batchnorm") if fixed else nn.Linear(6, 2)).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    monitor = RegressionMonitor(model, DataLoader(TensorDataset(x, y), 16), 2)
    found = monitor.measure()
    model.eval()
    features = model.trunk(x)
    if fixed:
        features = model.head.features_behind_neck(features)
    expected = regression_collapse(features.detach(), y, 2, weight=model.head.weight.detach())
    for name in ("nrc1", "nrc2", "nrc3"):
        assert found[name] == pytest.approx(expected[name].item(), rel=1e-5, abs=1e-12)
    assert found["nrc_gamma"] == pytest.approx(expected["gamma"].item(), rel=1e-5, abs=1e-12)
    assert found["nrc_energy"] == pytest.approx(features.square().sum(1).mean().item(), rel=1e-5)
    assert found["collapse_images"] == 50
    assert monitor.problem == ""
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_it_leaves_the_mode_as_it_was(data):
    model = Net(nn.Linear(6, 2)).train()
    RegressionMonitor(model, DataLoader(TensorDataset(*data), 16), 2).measure()
    assert model.training
    assert model.trunk[2].training


def test_one_target_has_no_nrc3(data):
    x, y = data
    found = RegressionMonitor(Net(nn.Linear(6, 1)), DataLoader(TensorDataset(x, y[:, :1]), 16), 1).measure()
    assert {"nrc1", "nrc2"} <= found.keys()
    assert "nrc3" not in found


def test_what_has_no_value_is_left_out_and_said(data):
    x, y = data
    monitor = RegressionMonitor(Net(nn.Linear(6, 2)), [(x[:2], y[:2])], 2)
    assert "nrc1" not in monitor.measure()
    assert "add more samples than targets" in monitor.problem


def test_too_few_features_are_refused():
    with pytest.raises(ValueError, match="model: 6 features cannot hold the directions of 7 targets"):
        RegressionMonitor(Net(nn.Linear(6, 7)), [], 7)
