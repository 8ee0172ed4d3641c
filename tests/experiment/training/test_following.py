"""Heads that follow the data in the training loop, and logits that are streamed through the loss."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from etfhead.errors import Interrupted
from etfhead.experiment.preflight import check_buildable
from etfhead.experiment.recipe import Arm
from etfhead.experiment.training import dry_run
from etfhead.experiment.training.arms import build_loss, build_model
from etfhead.experiment.training.class_losses import LossFacts
from etfhead.experiment.training.session import Session
from etfhead.heads import ETFHead

ARMS = {
    "class_mean": Arm(head="class_mean", momentum=0.8, centre=False),
    "repelled": Arm(head="class_mean", repel=0.2),
    "delta": Arm(head="delta", rate=0.1),
    "guided": Arm(head="guided", every=2),
    "low_rank": Arm(head="etf", low_rank=2),
    "fused": Arm(head="etf", fused=True),
    "fused_means": Arm(head="class_mean", fused=True),
    "fused_delta": Arm(head="delta", fused=True),
}


@pytest.fixture
def plain(recipe):
    recipe = replace(recipe, mixup=0.0, cutmix=0.0, model_ema=False)
    return lambda *names: replace(recipe, arms={name: ARMS[name] for name in names}, baseline=names[0])


def read(out, arm):
    folder = out / "arms" / arm / "seed0"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "result.json").read_text()), records


def weights(out, arm):
    return load_file(out / f"arms/{arm}/seed0/last.safetensors")


def test_class_vectors_are_the_running_means_of_the_batches(run, plain, splits, tmp_path):
    """Over a frozen trunk without a neck the features are known, and so is every running mean."""
    arm = Arm(head="class_mean", neck="none", momentum=0.8, centre=False)
    recipe = replace(plain("class_mean"), arms={"a": arm}, baseline="a", trainable=(), drop=0.0)
    out = run(recipe, tmp_path / "out")
    model = build_model(recipe, arm, 4, seed=0).eval()
    want = model.classifier.class_vectors().double()
    order = [item for item in splits.train.read if isinstance(item, tuple)]
    for start in range(0, 80, 8):
        images, labels = zip(*(splits.train[item] for item in order[start : start + 8]), strict=True)
        with torch.no_grad():
            features = model.forward_head(model.forward_features(torch.stack(images)), pre_logits=True)
        features = torch.nn.functional.normalize(features.double(), dim=1)
        for k in set(labels):
            of_class = features[torch.tensor(labels) == k]
            want[k] += 0.2 * (of_class.mean(0) - want[k])
    want = torch.nn.functional.normalize(want, dim=1)
    torch.testing.assert_close(weights(out, "a")["classifier.weight"].double(), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ARMS)
def test_stopped_and_resumed_bit_for_bit(run, plain, splits, tmp_path, kill_at, name):
    recipe = plain(name)
    whole = run(recipe, tmp_path / "whole")
    kill_at(splits.train, 60, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "cut")
    splits.train.before = lambda count: None
    run(recipe, tmp_path / "cut", resume=True)
    one, two = weights(whole, name), weights(tmp_path / "cut", name)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert read(whole, name)[0]["last"] == read(tmp_path / "cut", name)[0]["last"]


@pytest.mark.parametrize("name", ARMS)
def test_the_warm_up_step_changes_nothing(run, plain, tmp_path, monkeypatch, name):
    """The arm's state at its first real step is that of the model as it was built."""
    build, found = Session.build.__func__, []

    def watch(cls, *args, **options):
        session = build(cls, *args, **options)
        before = {key: value.clone() for key, value in session.raw.state_dict().items()}

        def hook(model, inputs):
            if model.training:
                after = model.state_dict()
                found.append(all(torch.equal(after[key], before[key]) for key in before))

        session.raw.register_forward_pre_hook(hook)
        return session

    monkeypatch.setattr(Session, "build", classmethod(watch))
    run(replace(plain(name), epochs=1, warmup_epochs=0), tmp_path / "out")
    assert found[:2] == [True, True], "the warm-up, and the first step after it"
    assert found[2] is False


def test_soft_targets_reach_the_heads(run, recipe, tmp_path):
    """With mixup, cutmix and a moving average on."""
    recipe = replace(recipe, arms={"a": ARMS["repelled"]}, baseline="a")
    out = run(recipe, tmp_path / "out")
    result, _ = read(out, "a")
    assert result["complete"]
    assert result["weights"] == "moving average"
    state = torch.load(out / "arms/a/seed0/state.pt", weights_only=True)
    own, average = (state[key]["classifier.weight"] for key in ("model", "ema"))
    torch.testing.assert_close(own.norm(dim=1), torch.ones(4))
    assert not torch.equal(own, average), "class vectors are averaged like weights"


@pytest.mark.parametrize(
    ("streamed", "stored"),
    [
        ("fused", Arm(head="etf")),
        ("fused_means", Arm(head="class_mean")),
        ("fused_delta", Arm(head="delta")),
    ],
)
def test_a_streamed_loss_trains_as_a_stored_one(run, plain, tmp_path, streamed, stored):
    recipe = plain(streamed)
    recipe = replace(recipe, arms={**recipe.arms, "stored": stored})
    out = run(recipe, tmp_path / "out")
    one, two = (read(out, name)[1] for name in (streamed, "stored"))
    for a, b in zip(one, two, strict=True):
        assert a["train_top1"] == b["train_top1"]
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-2)


def test_what_the_heads_cost(run, plain, tmp_path):
    """256 features, 4 classes: a scale of one number, and 2 (K + d) for the correction of rank 2."""
    out = run(plain("class_mean", "guided", "low_rank"), tmp_path / "out")
    params = {name: read(out, name)[0]["params_head"] for name in ("class_mean", "guided", "low_rank")}
    assert params == {"class_mean": 1, "guided": 1, "low_rank": 1 + 2 * (4 + 256)}
    states = {name: read(out, name)[0]["optimizer_state_bytes_head"] for name in ("class_mean", "guided")}
    assert states == {"class_mean": 12, "guided": 12}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "cosine", "fused": True}, r"^fused: head: cosine has .*etf or class_mean or delta"),
        ({"head": "linear", "momentum": 0.5}, "^momentum: head: linear has .*class_mean or guided"),
        ({"head": "etf", "every": 3}, r"^every: head: etf has no such option; .*use head: guided"),
        ({"head": "etf", "frame": "class_means"}, "^frame: class_means come from data"),
        ({"head": "etf", "frame": "class_means", "orient": "none"}, "^frame: class_means come from data"),
        ({"head": "etf", "exponent": 0.5}, "^exponent: has no effect without orient"),
        ({"head": "etf", "frame": "union", "basis": "haar"}, "^basis: frame: union has none"),
        ({"head": "class_mean", "momentum": 1.0}, "^momentum: expected a number >= 0 and < 1"),
        ({"head": "class_mean", "centre": 1.5}, "^centre: expected"),
        ({"head": "guided", "every": 0}, "^every: expected"),
        (
            {"head": "etf", "loss": "dot_regression", "normalize": True, "scale": 1.0, "learn_scale": False,
             "fused": True},
            "^fused: streams cross-entropy alone",
        ),
    ],
)  # fmt: skip
def test_options_that_would_be_ignored_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Arm(**options)


def test_recipes_that_exclude_an_arms_option(recipe):
    with pytest.raises(ValueError, match=r"^arms\.a\.fused: .*mixup"):
        replace(recipe, arms={"a": ARMS["fused"]}, baseline="a")
    with pytest.raises(ValueError, match=r"^model_ema: .*arm 'a'"):
        replace(recipe, arms={"a": ARMS["guided"]}, baseline="a")


def test_a_streamed_loss_needs_one_head(recipe):
    model = torch.nn.ModuleDict({name: ETFHead(8, 4, fused=True) for name in ("first", "second")})
    with pytest.raises(ValueError, match="fused: expected a model with one head, got first, second"):
        build_loss(replace(recipe, mixup=0.0, cutmix=0.0), ARMS["fused"], model, LossFacts.stand_in(4))


def test_unknown_frames_and_rank_are_told_with_the_arm(plain):
    recipe = plain("low_rank")
    for arm, message in (
        (Arm(head="etf", frame="unoin"), r"arm 'a': .*did you mean 'union'"),
        (Arm(head="etf", frame="oriented_simplex"), "arm 'a': .*frame"),
        (Arm(head="etf", low_rank=500), "arm 'a': .*low_rank"),
        (Arm(head="etf", low_rank=2, fused=True), "arm 'a': .*fused"),
    ):
        bad = replace(recipe, arms={"a": arm}, baseline="a")
        with pytest.raises(ValueError, match=message):
            check_buildable(bad)


def test_a_streamed_head_is_tried_before_the_run(run, plain, tmp_path, monkeypatch):
    tried = []
    build = dry_run.build_loss

    def watch(recipe, arm, model, facts):
        loss = build(recipe, arm, model, facts)
        tried.append((arm.fused, model.training))
        return loss

    monkeypatch.setattr(dry_run, "build_loss", watch)
    run(replace(plain("fused"), epochs=1, warmup_epochs=0), tmp_path / "out")
    assert tried == [(True, True)]
