import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error, r2_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from etfhead.errors import TrainingError
from etfhead.experiment.data.target_scaling import fit_scaling
from etfhead.experiment.training.accelerator import make_accelerator
from etfhead.experiment.training.evaluate_targets import evaluate_targets


@pytest.fixture
def accelerator(recipe):
    with make_accelerator(recipe) as made:
        yield made


def split(seed=0, count=37):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4))
    y = (
        x @ rng.normal(size=(4, 3)) * [1, 50, 1e-2]
        + rng.normal(size=(count, 3)) * [0.5, 10, 3e-3]
        + [3, -7, 0]
    )
    return x, y


@pytest.mark.parametrize("batch", [5, 37])
def test_figures_are_scikit_learns(accelerator, batch):
    x, y = split()
    scaling = fit_scaling(split(seed=1, count=90)[1], "abc")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    inputs = torch.from_numpy(x).float()[..., None, None]
    data = TensorDataset(inputs, torch.from_numpy(scaling.standardised(y)).float())
    seen = []
    found = evaluate_targets(
        model.train(), DataLoader(data, batch), accelerator=accelerator, scaling=scaling, tick=seen.append
    )
    predicted = model(inputs).detach().double().numpy() * scaling.std + scaling.mean
    errors = mean_squared_error(y, predicted, multioutput="raw_values")
    assert found["r2"] == pytest.approx(100 * r2_score(y, predicted), rel=1e-5)
    assert [found[f"mse_{k}"] for k in range(3)] == pytest.approx(errors.tolist(), rel=1e-5)
    assert found["mse"] == pytest.approx(errors.mean(), rel=1e-5)
    assert found["nmse"] == pytest.approx(100 * (errors / scaling.std**2).mean(), rel=1e-5)
    assert found["loss"] == pytest.approx((errors / scaling.std**2).sum() / 2, rel=1e-5)
    assert sum(seen) == 37
    assert model.training


def test_a_target_without_variance_in_the_split_has_no_r2(accelerator):
    scaling = fit_scaling(split()[1], "abc")
    target = torch.tensor([[0.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    data = [(torch.zeros(2, 3, 1, 1), target)]
    found = evaluate_targets(nn.Flatten(), data, accelerator=accelerator, scaling=scaling)
    assert found["r2"] == pytest.approx(100 * (1 - 10 / 2))
    constant = [(torch.zeros(2, 3, 1, 1), torch.ones(2, 3))]
    assert evaluate_targets(nn.Flatten(), constant, accelerator=accelerator, scaling=scaling)["r2"] == 0.0


def test_outputs_that_are_not_finite_stop_the_training(accelerator):
    scaling = fit_scaling(split()[1], "abc")
    data = [(torch.full((2, 3, 1, 1), float("nan")), torch.zeros(2, 3))]
    with pytest.raises(TrainingError, match="outputs are not finite"):
        evaluate_targets(nn.Flatten(), data, accelerator=accelerator, scaling=scaling)
