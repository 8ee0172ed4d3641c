"""The fixed regression head: its optimum, its life in checkpoints and models, and what it refuses."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import etfhead
from etfhead.frames import target_statistics
from etfhead.heads import RegressionConvHead, RegressionHead
from etfhead.surgery import find_heads, fold_head, swap_head

D = 16


def drawn(n=3, samples=50, seed=0, spread=(3.0, 1.0, 0.2, 0.1)):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=generator)
    return torch.randn(samples, n, generator=generator) @ mix * torch.tensor(spread[:n]) + 5


def features(samples=6, seed=1):
    return torch.randn(samples, D, generator=torch.Generator().manual_seed(seed))


def saved(module):
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("energy", ["auto", 2.5])
def test_the_features_that_fit_all_targets_have_the_wanted_energy(n, whiten, energy):
    targets = drawn(n)
    head = RegressionHead(D, n, targets=targets, whiten=whiten, feature_energy=energy, dtype=torch.float64)
    exact = (targets.double() - head.bias) @ torch.linalg.pinv(head.weight).T
    torch.testing.assert_close(head(exact), targets.double())
    assert exact.square().sum(1).mean().item() == pytest.approx(D if energy == "auto" else energy)
    assert list(head.parameters()) == []


def test_outputs_are_those_of_the_folded_layer():
    head = RegressionHead(D, 3, targets=drawn())
    h = features()
    torch.testing.assert_close(head(h), h @ head.weight.T + drawn().mean(0))
    assert torch.equal(head.fuse()(h), head(h))
    assert head(features().reshape(2, 3, D)).shape == (2, 3, 3)
    neck = RegressionHead(D, 3, targets=drawn(), neck="batchnorm")
    neck(4 * h + 2)
    torch.testing.assert_close(neck.eval().fuse()(h), neck(h), rtol=1e-5, atol=1e-5)


def test_the_convolutional_twin_is_the_head_at_every_place():
    head, conv = RegressionHead(D, 3, targets=drawn()), RegressionConvHead(D, 3, targets=drawn())
    h = torch.randn(2, D, 4, 5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(conv(h), head(h.movedim(1, -1)).movedim(-1, 1))
    torch.testing.assert_close(conv.fuse()(h), conv(h))
    torch.testing.assert_close(conv.whitened(conv(h)).movedim(1, -1), head.whitened(conv(h).movedim(1, -1)))


@pytest.mark.parametrize("n", [1, 3])
def test_whitened_targets_are_white(n):
    head = RegressionHead(D, n, targets=drawn(n), whiten=True, dtype=torch.float64)
    white = head.whitened(drawn(n).double())
    torch.testing.assert_close(white.mean(0), torch.zeros(n).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(n).double(), rtol=0, atol=1e-6)
    # In white coordinates the head is a random orthonormal weight.
    map_ = torch.stack([head.whitened(head(h)) for h in torch.eye(D).double()]).T
    map_ = map_ - head.whitened(head(torch.zeros(D).double()))[:, None]
    torch.testing.assert_close(map_ @ map_.T, n / D * torch.eye(n).double())


def test_statistics_in_place_of_targets_and_a_seed():
    targets = drawn()
    head = RegressionHead(D, 3, targets=targets, seed=4)
    assert torch.equal(head.weight, RegressionHead(D, 3, targets=target_statistics(targets), seed=4).weight)
    assert not torch.equal(head.weight, RegressionHead(D, 3, targets=targets).weight)


def test_dependent_targets_are_refused_unless_told():
    targets = drawn(2)
    targets = torch.cat([targets, targets.sum(1, keepdim=True)], 1)
    with pytest.raises(ValueError, match=r"singular: .*t0.*t1.*t2 is constant.*allow_singular=True"):
        RegressionHead(D, 3, targets=targets)
    head = RegressionHead(D, 3, targets=targets, allow_singular=True, dtype=torch.float64)
    outputs = head(features().double())
    torch.testing.assert_close(outputs[:, 2], outputs[:, :2].sum(1), rtol=1e-3, atol=1e-3)
    white = head.whitened(targets.double())
    assert torch.linalg.eigvalsh(white.T @ white / len(white)).tolist() == pytest.approx([0, 1, 1], abs=1e-5)
    exact = (targets.double() - head.bias) @ torch.linalg.pinv(head.weight, rtol=1e-3).T
    assert exact.square().sum(1).mean().item() == pytest.approx(D, rel=1e-3)


def test_a_thresholded_head_predicts_the_mean_where_variance_is_low():
    targets = drawn(2, spread=(3.0, 0.01))
    values = torch.linalg.eigvalsh(target_statistics(targets).covariance)
    decay = float((values[0] * values[1]) ** 0.25)
    head = RegressionHead(D, 2, targets=targets, weight_decay=decay, feature_decay=decay)
    assert torch.linalg.matrix_rank(head.weight, rtol=1e-4) == 1


# Checkpoints


def test_a_checkpoint_brings_its_targets_along():
    trained, other = RegressionHead(D, 3, targets=drawn()), RegressionHead(D, 3, targets=drawn(seed=7) * 9)
    assert not torch.equal(trained.weight, other.weight)
    other.load_state_dict(saved(trained))
    assert torch.equal(other(features()), trained(features()))
    assert torch.equal(other.half().float().weight, trained.weight)
    torch.testing.assert_close(other.whitened(drawn()), trained.whitened(drawn()), rtol=1e-4, atol=1e-4)
    assert set(trained.state_dict()) == {"weight", "bias", "target_covariance"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rounding_leaves_nothing_behind(dtype):
    head = RegressionHead(D, 3, targets=drawn())
    exact = head.weight.clone()
    assert torch.equal(head.to(dtype).to(torch.float32).weight, exact)
    stored = {name: tensor.to(dtype) for name, tensor in saved(head).items()}
    fresh = RegressionHead(D, 3, targets=drawn())
    fresh.load_state_dict(stored)
    assert torch.equal(fresh.weight, exact)


def test_copies_pickles_and_meta():
    head = RegressionHead(D, 3, targets=drawn())
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin(features()), head(features()))
    meta = RegressionHead(D, 3, targets=drawn(), device="meta")
    with pytest.raises(ValueError, match="meta"):
        meta.fuse()
    meta.to_empty(device="cpu").reset_parameters()
    assert torch.equal(meta.weight, head.weight)
    loaded = RegressionHead(D, 3, targets=drawn(seed=3), device="meta")
    loaded.load_state_dict(saved(head), assign=True)
    assert torch.equal(loaded.weight, head.weight)


@pytest.mark.parametrize("strict", [True, False])
def test_a_learnable_weight_or_another_seed_is_refused(strict):
    head = RegressionHead(D, 3, targets=drawn())
    before = saved(head)
    for other in (nn.Linear(D, 3), RegressionHead(D, 3, targets=drawn(), seed=1)):
        with pytest.raises(
            RuntimeError, match="weight is not a symmetric matrix times this head's directions"
        ):
            head.load_state_dict(saved(other), strict=strict)
    negative = {**before, "weight": -before["weight"]}
    broken = {**before, "weight": before["weight"] * float("nan")}
    for state in (negative, broken):
        with pytest.raises(RuntimeError, match="weight is not"):
            head.load_state_dict(state, strict=strict)
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


def test_a_checkpoint_of_another_size_is_pytorchs_error():
    with pytest.raises(RuntimeError, match="size mismatch"):
        RegressionHead(D, 3, targets=drawn()).load_state_dict(saved(RegressionHead(D, 2, targets=drawn(2))))


# In a model


def mlp(outputs=10):
    return nn.Sequential(nn.Linear(5, D), nn.Tanh(), nn.Linear(D, D), nn.Linear(D, outputs))


@pytest.mark.parametrize("n", [1, 3])
def test_swap_takes_the_number_of_targets_and_folds_back(n):
    model = swap_head(mlp(), head="regression", targets=drawn(n), classifier="3")
    head = model[3]
    assert isinstance(head, etfhead.RegressionHead)
    assert (head.num_targets, head.out_features, head.in_features) == (n, n, D)
    assert list(find_heads(model)) == ["3"]
    x = torch.randn(4, 5)
    expected = model(x)
    fold_head(model)
    assert type(model[3]) is nn.Linear
    assert torch.equal(model(x), expected)
    stock = mlp(n)
    stock.load_state_dict(model.state_dict())
    assert torch.equal(stock(x), expected)


def test_swap_in_a_timm_like_model_with_a_convolution_and_one_target_as_a_vector():
    model = swap_head(nn.Sequential(nn.Conv2d(D, 7, 1)), "regression", targets=drawn(1)[:, 0], classifier="0")
    assert isinstance(model[0], RegressionConvHead)
    assert model(torch.randn(2, D, 3, 3)).shape == (2, 1, 3, 3)


def test_a_swap_that_fails_leaves_the_model():
    model = mlp()
    layers = list(model)
    for options, message in (
        ({}, "targets: a fixed regression head is made from the training targets"),
        ({"targets": drawn(), "num_classes": 4}, "expected 4 columns, as num_targets, got 3"),
        ({"targets": drawn(), "scale": 2.0}, "scale: not an option of head='regression'"),
        ({"targets": torch.ones(9, 2)}, "constant"),
        ({"targets": drawn(), "class_counts": [1, 2, 3]}, "class_counts"),
    ):
        with pytest.raises(ValueError, match=message):
            swap_head(model, head="regression", classifier="3", **options)
        assert list(model) == layers
    with pytest.raises(ValueError, match="num_classes=1"):
        swap_head(model, head="etf", classifier="3", num_classes=1)


def test_a_trunk_learns_under_it():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    targets = x @ torch.randn(5, 3, generator=generator) * torch.tensor([5.0, 1.0, 0.2])
    model = swap_head(mlp(), head="regression", targets=targets, classifier="3")
    frozen = model[3].weight.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = nn.functional.mse_loss(model(x), targets).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * first
    assert torch.equal(model[3].weight, frozen)


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (3, {}, "targets: a fixed regression head is made from"),
        (17, {"targets": torch.eye(17)}, "num_targets=17 with in_features=16: .*widen the last layer"),
        (2, {}, r"targets: expected 2 columns, as num_targets, got 3"),
        (0, {}, "num_targets=0"),
        (3, {"feature_energy": 0}, "feature_energy=0"),
        (3, {"feature_energy": "big"}, "feature_energy='big'"),
        (3, {"feature_energy": None}, "feature_energy=None"),
        (3, {"targets": drawn().double() * torch.tensor([1e9, 1.0, 1e-9]).double()}, "too unlike"),
        (3, {"feature_energy": 2.0, "weight_decay": 0.1, "feature_decay": 0.1}, "leave it at 'auto'"),
        (3, {"whiten": True, "weight_decay": 0.1, "feature_decay": 0.1}, "no whitening"),
        (3, {"whiten": 1}, "whiten=1"),
        (3, {"weight_decay": 0.1}, "expected both or neither"),
        (3, {"weight_decay": 1e3, "feature_decay": 1e3}, "the best weight is then zero"),
        (3, {"neck": "layernorm"}, "neck='layernorm'"),
        (3, {"basis": "dct"}, "basis='dct'"),
    ],
)
def test_bad_options_are_refused(n, options, message):
    given = {} if message.startswith("targets: a fixed") else {"targets": drawn()}
    with pytest.raises(ValueError, match=message):
        RegressionHead(D, n, **(given | options))


def test_features_and_values_of_another_width_are_refused():
    head = RegressionHead(D, 3, targets=drawn())
    with pytest.raises(ValueError, match="expected 16 features"):
        head(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="expected 3 targets"):
        head.whitened(torch.zeros(2, 5))
    assert "num_targets=3, feature_energy=16" in repr(head)
    explicit = RegressionHead(D, 3, targets=drawn(), weight_decay=0.1, feature_decay=0.1)
    assert "weight_decay=0.1" in repr(explicit)
