import pytest
import torch
from torch import nn

from etfhead.experiment.models import etfhead_mlp
from etfhead.experiment.training.linear_tail import DecayedTail, find_linear_tail, tail_product
from etfhead.experiment.training.tail_geometry import TailGeometry, is_predicted
from etfhead.frames.deep_linear import deep_linear_geometry
from etfhead.losses import SquaredErrorLoss

DECAYS = {"weight_decay": 1e-2, "feature_decay": 1e-3}


def mlp(*linear, bias=False):
    torch.manual_seed(0)
    return etfhead_mlp(num_classes=3, img_size=2, widths=[8], linear_widths=linear, bias=bias)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 1, 2, 2, generator=generator), torch.arange(6) % 3


@pytest.mark.parametrize("linear", [(), (6,), (6, 5), (6, 5, 4)])
def test_adds_the_decays_of_theory(linear, batch):
    model = mlp(*linear)
    criterion = DecayedTail(SquaredErrorLoss(), model, DECAYS, num_samples=50)
    images, target = batch
    loss = criterion(model(images), target)

    hidden = torch.relu(model.trunk[1](images.flatten(1)))
    weights = [layer.weight for layer in [*list(model.trunk)[3:], model.fc]]
    if len(weights) > 1:
        hidden, weights = hidden @ weights[0].T, weights[1:]
    logits = hidden
    for weight in weights:
        logits = logits @ weight.T
    by_hand = 0.5 * (logits - torch.eye(3)[target]).square().sum(1).mean()
    by_hand = by_hand + 0.5e-2 * sum(weight.square().sum() for weight in weights)
    by_hand = by_hand + 0.5e-3 * 50 * hidden.square().sum(1).mean()
    torch.testing.assert_close(loss, by_hand)
    for ours, theirs in zip(
        torch.autograd.grad(loss, model.parameters()),
        torch.autograd.grad(by_hand, model.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_an_evaluation_between_leaves_no_features_behind(batch):
    model = mlp(6)
    criterion = DecayedTail(SquaredErrorLoss(), model, DECAYS, num_samples=50)
    images, target = batch
    expected = criterion(model(images), target)
    with torch.no_grad():
        model(torch.full((9, 1, 2, 2), 7.0))
    torch.testing.assert_close(criterion(model(images), target), expected)


def test_the_product_is_what_the_tail_does(batch):
    model = mlp(6, 5, 4).double()
    layers = find_linear_tail(model)
    features = torch.randn(5, 6, dtype=torch.float64)
    expected = features
    for layer in layers:
        expected = layer(expected)
    torch.testing.assert_close(features @ tail_product(layers).T, expected.detach())


def test_loss_has_no_parameters_of_its_own():
    criterion = DecayedTail(nn.CrossEntropyLoss(), mlp(6), DECAYS, 10)
    assert not list(criterion.parameters())
    assert not criterion.state_dict()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "weight_decay: expected a positive number, got None"),
        ({**DECAYS, "feature_decay": 0.0}, "feature_decay: expected a positive number"),
        ({**DECAYS, "depth": 2}, "no option 'depth'"),
        ({**DECAYS, "layers": 0}, "layers: expected an integer"),
        ({**DECAYS, "layers": 4}, r"expected 4 linear layer\(s\) at the end, got ReLU, Linear, Linear"),
    ],
)
def test_refuses_other_options_and_models(options, names):
    with pytest.raises(ValueError, match=names):
        DecayedTail(nn.CrossEntropyLoss(), mlp(6, 5), options, 10)


COUNTS = (12, 6, 3)


def at_the_optimum(*, bias=False):
    """A model whose class means and layer are the predicted ones, and images that make them."""
    geometry = deep_linear_geometry(COUNTS, weight_decays=[1e-2], feature_decay=1e-3, bias=bias)
    features = torch.linalg.cholesky(geometry.mean_gram + 1e-15 * torch.eye(3))
    weight = geometry.product @ torch.linalg.pinv(features.T)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[:, :3] = weight.float()
    model.pretrained_cfg = {"classifier": "1"}
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    images = torch.zeros(21, 1, 2, 2)
    images.flatten(1)[:, :3] = features.float()[labels]
    return model, [(images[:10], labels[:10]), (images[10:], labels[10:])]


def test_geometry_is_at_the_prediction_when_the_model_is():
    model, batches = at_the_optimum()
    criterion = DecayedTail(SquaredErrorLoss(), model, DECAYS, 21)
    found = TailGeometry(model, criterion, batches, COUNTS).measure()
    for key in ("tail_weights", "tail_means", "tail_product"):
        assert found[key] < 1e-5, key
    assert found["tail_nc1"] < 1e-6
    assert found["tail_balanced"] > 0.1
    assert found["tail_time"] > 0


def test_geometry_sees_other_counts_and_spread():
    model, batches = at_the_optimum()
    criterion = DecayedTail(SquaredErrorLoss(), model, DECAYS, 21)
    assert TailGeometry(model, criterion, batches, (3, 6, 12)).measure()["tail_weights"] > 0.1
    noise = torch.Generator().manual_seed(0)
    spread = [(x + 0.3 * torch.randn(x.shape, generator=noise), y) for x, y in batches]
    assert TailGeometry(model, criterion, spread, COUNTS).measure()["tail_nc1"] > 0.05


def test_only_squared_error_has_a_prediction_to_compare_with():
    model, _ = at_the_optimum()
    assert is_predicted(DecayedTail(SquaredErrorLoss(), model, DECAYS, 21))
    assert not is_predicted(DecayedTail(nn.CrossEntropyLoss(), model, DECAYS, 21))
    assert not is_predicted(SquaredErrorLoss())


def test_decays_that_leave_nothing_are_refused():
    model, batches = at_the_optimum()
    heavy = DecayedTail(SquaredErrorLoss(), model, {"weight_decay": 1.0, "feature_decay": 1.0}, 21)
    with pytest.raises(ValueError, match="every class collapses"):
        TailGeometry(model, heavy, batches, COUNTS)
