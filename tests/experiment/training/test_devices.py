"""The loop on other devices and in other precisions."""

import json
import signal
from dataclasses import replace

import pytest
import torch

from etfhead.errors import Interrupted
from etfhead.experiment.recipe import Arm


def results(out):
    return {
        path.parent.parent.name: json.loads(path.read_text()) for path in out.glob("arms/*/*/result.json")
    }


def test_bfloat16_and_channels_last_on_the_cpu(run, three_arms, tmp_path):
    found = results(run(replace(three_arms, amp_dtype="bfloat16", channels_last=True), tmp_path / "out"))
    assert found.keys() == three_arms.arms.keys()
    assert found["etf"]["params_head"] == 1


def test_workers_change_nothing(run, recipe, splits, tmp_path):
    one = run(recipe, tmp_path / "one")
    two = run(replace(recipe, workers=2), tmp_path / "two")
    states = [torch.load(out / "arms/etf/seed0/state.pt", weights_only=True) for out in (one, two)]
    assert all(torch.equal(states[0]["model"][name], value) for name, value in states[1]["model"].items())


FOLLOWING = {
    "means": Arm(head="class_mean", repel=0.1, orient="features"),
    "guided": Arm(head="guided", every=2),
    "fused": Arm(head="etf", fused=True, orient="inputs"),
    "union": Arm(head="etf", frame="union", low_rank=2),
}


@pytest.fixture
def following(recipe):
    recipe = replace(recipe, mixup=0.0, cutmix=0.0, model_ema=False)
    return replace(recipe, arms=FOLLOWING, baseline="means")


@pytest.mark.slow
def test_following_heads_compiled_give_the_numbers_of_eager_ones(run, following, tmp_path):
    eager = results(run(following, tmp_path / "eager"))
    compiled = results(run(replace(following, torchcompile=True), tmp_path / "compiled"))
    for arm in FOLLOWING:
        assert compiled[arm]["last"]["test_loss"] == pytest.approx(eager[arm]["last"]["test_loss"], rel=0.05)


def test_following_heads_in_bfloat16(run, following, tmp_path):
    found = results(run(replace(following, amp_dtype="bfloat16"), tmp_path / "out"))
    assert {arm: result["params_head"] for arm, result in found.items()} == {
        "means": 1,
        "guided": 1,
        "fused": 1,
        "union": 1 + 2 * (4 + 256),
    }


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, "bfloat16", "float16"])
def test_following_heads_on_cuda(run, following, splits, tmp_path, kill_at, precision):
    recipe = replace(following, cpu=False, amp_dtype=precision, channels_last=True)
    kill_at(splits.train, 100, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "out")
    splits.train.before = lambda count: None
    assert results(run(recipe, tmp_path / "out", resume=True)).keys() == FOLLOWING.keys()


@pytest.mark.slow
def test_compiled(run, three_arms, tmp_path):
    found = results(run(replace(three_arms, torchcompile=True), tmp_path / "out"))
    assert {arm: result["params_head"] for arm, result in found.items()} == {
        "learnable": 1028,
        "cosine": 1025,
        "etf": 1,
    }


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, "bfloat16", "float16"])
def test_cuda(run, three_arms, splits, tmp_path, kill_at, precision):
    recipe = replace(three_arms, cpu=False, amp_dtype=precision, channels_last=True)
    kill_at(splits.train, 100, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "out")
    splits.train.before = lambda count: None
    found = results(run(recipe, tmp_path / "out", resume=True))
    assert found.keys() == three_arms.arms.keys()
    for result in found.values():
        assert result["steps"] == 10
        assert result["peak_memory_bytes"] > 0
        assert result["device"] == torch.cuda.get_device_name(0)
