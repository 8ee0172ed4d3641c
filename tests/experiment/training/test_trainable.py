"""A frozen trunk is a fixed function: no gradient, no statistics, no drop; the rest trains as usual."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from etfhead.errors import Interrupted
from etfhead.experiment.preflight import check_buildable
from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.arms import build_model
from etfhead.experiment.training.optimization import build_optimizer
from etfhead.experiment.training.trainable import freeze_all_but, frozen_modules, train_mode

LAST = ("conv_head", "bn2")


@pytest.fixture
def last_stage(three_arms):
    return replace(three_arms, trainable=LAST)


def trains(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_prefix_covers_whole_parts_of_a_name():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(12)), nn.Linear(1, 2))
    freeze_all_but(model, ["1", "3.bias"])
    assert trains(model) == {"1.weight", "1.bias", "3.bias"}


def test_the_head_always_trains(last_stage):
    for arm in last_stage.arms.values():
        model = build_model(last_stage, arm, 4, seed=0)
        free = build_model(replace(last_stage, trainable=None), arm, 4, seed=0)
        want = {name for name in trains(free) if name.startswith((*LAST, "classifier"))}
        assert trains(model) == want
        assert any(name.startswith("classifier") for name in want)
        head_only = build_model(replace(last_stage, trainable=()), arm, 4, seed=0)
        assert trains(head_only) == {name for name in want if name.startswith("classifier")}


def test_frozen_parts_keep_still_in_training_mode(last_stage):
    model = build_model(replace(last_stage, drop_path=0.5), Arm(head="etf"), 4, seed=0)
    train_mode(model, frozen_modules(model))
    assert model.training
    assert model.bn2.training
    assert model.classifier.neck.training
    frozen = [m for m in model.modules() if any(True for _ in m.parameters()) and m not in (model,)]
    frozen = [m for m in frozen if not any(p.requires_grad for p in m.parameters())]
    assert frozen
    assert not any(m.training for m in frozen)
    images = torch.rand(8, 1, 32, 32)
    before = {name: value.clone() for name, value in model.blocks.state_dict().items()}
    first, second = (model.blocks(model.bn1(model.conv_stem(images))) for _ in range(2))
    assert torch.equal(first, second), "no stochastic depth, no batch statistics"
    assert all(torch.equal(value, before[name]) for name, value in model.blocks.state_dict().items())


def test_a_head_without_parameters_still_follows_the_features(last_stage):
    arm = Arm(head="etf", scale=2.0, learn_scale=False)
    model = build_model(last_stage, arm, 4, seed=0)
    holder = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), model.classifier))
    freeze_all_but(holder, ["0"])
    train_mode(holder, frozen_modules(holder))
    assert holder[1][1].neck.training
    assert not holder[1][0].training


def test_norms_with_one_trained_parameter_train():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    freeze_all_but(model, ["1.bias", "2"])
    train_mode(model, frozen_modules(model))
    assert [module.training for module in model] == [False, True, True]


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("opt", ["adamw", "sgd", "lamb"])
def test_the_optimizer_gets_what_trains(last_stage, opt, weight_decay):
    recipe = replace(last_stage, opt=opt, weight_decay=weight_decay)
    model = build_model(recipe, Arm(), 4, seed=0)
    optimizer = build_optimizer(recipe, model)
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for p in model.parameters() if p.requires_grad}
    model(torch.rand(4, 1, 32, 32)).square().sum().backward()
    optimizer.step()


def test_only_what_trains_moves_in_a_run(run, last_stage, tmp_path):
    recipe = replace(last_stage, model_ema=False)
    out = run(recipe, tmp_path / "out")
    for name, arm in recipe.arms.items():
        start = build_model(recipe, arm, 4, seed=0).state_dict()
        end = load_file(out / f"arms/{name}/seed0/last.safetensors")
        moved = {key for key in end if not torch.equal(start[key], end[key])}
        assert all(key.startswith((*LAST, "classifier")) for key in moved)
        assert {"conv_head.weight", "bn2.weight", "bn2.running_mean"} <= moved
        result = json.loads((out / f"arms/{name}/seed0/result.json").read_text())
        free = build_model(recipe, arm, 4, seed=0)
        assert result["params_trainable"] == sum(p.numel() for p in free.parameters() if p.requires_grad)
        moments = sum(2 * 4 * p.numel() + 4 for p in free.parameters() if p.requires_grad)
        assert result["optimizer_state_bytes"] == moments


def test_resumed_bit_for_bit(run, last_stage, splits, tmp_path, kill_at):
    recipe = replace(last_stage, arms={"etf": last_stage.arms["etf"]}, baseline="etf")
    whole = run(recipe, tmp_path / "whole")
    kill_at(splits.train, 50, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "cut")
    splits.train.before = lambda count: None
    run(recipe, tmp_path / "cut", resume=True)
    one, two = (load_file(out / "arms/etf/seed0/last.safetensors") for out in (whole, tmp_path / "cut"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    with pytest.raises(ValueError, match=r"trainable is .* there, None now"):
        run(replace(recipe, trainable=None), whole, resume=True)


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        (("block.2",), r"arm 'a': trainable: .*'block\.2'.*did you mean '.*blocks\.2"),
        (
            ("conv_head", "bn3"),
            r"no parameters at 'bn3'.*did you mean 'bn2'.*parts are conv_stem, bn1, blocks",
        ),
        (("",), "no parameters at ''"),
        (("global_pool",), "no parameters at 'global_pool'"),
    ],
)
def test_a_prefix_that_covers_nothing_is_refused_first(recipe, prefixes, message):
    recipe = replace(recipe, trainable=prefixes, arms={"a": Arm()}, baseline="a")
    with pytest.raises(ValueError, match=message):
        check_buildable(recipe)


def test_nothing_left_to_train_is_refused(recipe):
    fixed = Arm(head="etf", neck="none", scale=8.0, learn_scale=False)
    with pytest.raises(ValueError, match="leaves nothing to train"):
        build_model(replace(recipe, trainable=()), fixed, 4, seed=0)
