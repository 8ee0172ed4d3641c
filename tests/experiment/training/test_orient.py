"""Class vectors that start from the training images: what they become, what it costs, and resuming."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from etfhead.errors import DataError, Interrupted
from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.arms import build_model, resolve_arms
from etfhead.surgery import find_heads

STARTED = {
    "linear": Arm(orient="features"),
    "linear_neck": Arm(neck="batchnorm", orient="features"),
    "cosine": Arm(head="cosine", orient="inputs"),
    "etf": Arm(head="etf", orient="features"),
    "etf_inputs": Arm(head="etf", orient="inputs"),
    "code": Arm(head="etf", frame="class_means", orient="inputs", exponent=0.5),
    "orthoplex": Arm(head="etf", frame="orthoplex", orient="features"),
    "class_mean": Arm(head="class_mean", orient="inputs"),
    "delta": Arm(head="delta", orient="inputs"),
    "guided": Arm(head="guided", orient="features", every=3),
}


@pytest.fixture
def plain(recipe):
    """Without mixup, average and other passes over the plain images, with the class vectors of these arms."""
    recipe = replace(recipe, mixup=0.0, cutmix=0.0, model_ema=False, collapse_every=0)
    return lambda *names: replace(recipe, arms={name: STARTED[name] for name in names}, baseline=names[0])


def read(out, arm):
    folder = out / "arms" / arm / "seed0"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "result.json").read_text()), records


def features_of(model, images):
    """Features at the head, by a hook, as nobody else computes them here."""
    (head,) = find_heads(model).values()
    found = []
    handle = head.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model.eval()(images)
    handle.remove()
    return found[0].double()


def test_the_simplex_is_turned_to_the_class_means_of_the_untrained_trunk(run, plain, splits, tmp_path):
    recipe = plain("etf")
    out = run(recipe, tmp_path / "out")
    vectors = load_file(out / "arms/etf/seed0/last.safetensors")["classifier.weight"].double()
    features = features_of(build_model(recipe, STARTED["etf"], 4, seed=0), splits.plain.images)
    features = (features - features.mean(0)) / (features.var(0, correction=0) + 1e-5).sqrt()  # the neck
    means = torch.stack([features[splits.plain.labels == k].mean(0) for k in range(4)])
    centring = torch.eye(4, dtype=torch.float64) - 0.25
    left, _, right = torch.linalg.svd(centring @ means, full_matrices=False)
    polar = left[:, :3] @ right[:3]  # rank 3: four centred means
    torch.testing.assert_close(vectors, (4 / 3) ** 0.5 * polar, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", STARTED)
def test_every_head_can_start_from_the_images(run, plain, splits, tmp_path, name):
    recipe = plain(name)
    out = run(recipe, tmp_path / "out")
    assert sorted(splits.plain.read) == list(range(40)), "one pass, each image once"
    result, records = read(out, name)
    assert 0 < result["align_time"] < records[0]["train_time"]
    speed = 80 / (result["train_time"] - result["align_time"])
    assert result["images_per_s"] == pytest.approx(speed)
    start = build_model(recipe, STARTED[name], 4, seed=0).state_dict()
    end = load_file(out / f"arms/{name}/seed0/last.safetensors")
    heads = {key for key in end if key.startswith("classifier")}
    assert any(key not in start or not torch.equal(start[key], end[key]) for key in heads)


def test_arms_without_orientation_read_no_extra_image_and_tell_no_time(run, plain, splits, tmp_path):
    recipe = replace(plain("etf"), arms={"a": Arm(head="etf"), "b": Arm(head="class_mean")}, baseline="a")
    out = run(recipe, tmp_path / "out")
    assert splits.plain.read == []
    assert [read(out, arm)[0]["align_time"] for arm in ("a", "b")] == [None, None]


def test_the_trunk_stays_that_of_every_other_arm(plain):
    recipe = plain(*STARTED)
    trunks = [
        {
            key: value
            for key, value in build_model(recipe, arm, 4, seed=0).state_dict().items()
            if not key.startswith("classifier")
        }
        for arm in (Arm(), *STARTED.values())
    ]
    assert all(torch.equal(trunks[0][key], other[key]) for other in trunks for key in trunks[0])


def test_the_stock_layer_stays_the_models_own(recipe):
    model = build_model(recipe, STARTED["linear"], 4, seed=0)
    assert find_heads(model) == {}
    assert type(model.classifier) is torch.nn.Linear


def test_figures_before_the_first_step(run, plain, splits, tmp_path):
    recipe = plain("etf", "code", "linear")
    out = run(replace(recipe, epochs=1, warmup_epochs=0), tmp_path / "out")
    images = torch.stack([splits.val[i][0] for i in range(12)])
    features = features_of(
        build_model(recipe, STARTED["etf"], 4, seed=0), torch.cat([splits.plain.images, images])
    )
    centre, spread = features[:40].mean(0), (features[:40].var(0, correction=0) + 1e-5).sqrt()
    features = (features - centre) / spread
    means = torch.stack([features[:40][splits.plain.labels == k].mean(0) for k in range(4)])
    left, _, right = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    logits = features[40:] @ (left[:, :3] @ right[:3]).T
    top1 = 100 * (logits.argmax(1) == splits.val.labels).double().mean().item()
    assert read(out, "etf")[0]["initial"]["val_top1"] == pytest.approx(top1)
    assert {"val_loss", "val_top1", "val_ece"} == read(out, "linear")[0]["initial"].keys()


@pytest.mark.parametrize("name", ["etf", "code", "orthoplex", "linear", "class_mean", "delta", "guided"])
def test_stopped_and_resumed_bit_for_bit(run, plain, splits, tmp_path, kill_at, name):
    recipe = plain(name)
    whole = run(recipe, tmp_path / "whole")
    for item in (15, 20):
        kill_at(splits.train, item, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(recipe, tmp_path / "cut", resume=True)
    splits.train.before = lambda count: None
    seen = len(splits.plain.read)
    run(recipe, tmp_path / "cut", resume=True)
    assert len(splits.plain.read) == seen, "a resumed run does not orient again"
    one, two = (load_file(out / f"arms/{name}/seed0/last.safetensors") for out in (whole, tmp_path / "cut"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    one, two = read(whole, name), read(tmp_path / "cut", name)
    assert one[0]["last"] == two[0]["last"]
    assert one[0]["initial"] == two[0]["initial"]
    assert two[0]["align_time"] > 0


def test_stopped_while_orienting(run, plain, splits, tmp_path, kill_at):
    recipe = plain("etf")
    whole = run(recipe, tmp_path / "whole")
    kill_at(splits.plain, 3, signal.SIGINT)
    with pytest.raises(Interrupted) as stop:
        run(recipe, tmp_path / "cut")
    assert stop.value.signum == signal.SIGINT
    assert not list((tmp_path / "cut").glob("arms/*/*/*"))
    splits.plain.before = lambda count: None
    run(recipe, tmp_path / "cut", resume=True)
    one, two = (load_file(out / "arms/etf/seed0/last.safetensors") for out in (whole, tmp_path / "cut"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_an_image_that_cannot_be_read_is_told_with_the_arm(run, plain, splits, tmp_path):
    def fail(count):
        raise DataError("cat.jpg: cannot be read as an image")

    splits.plain.before = fail
    with pytest.raises(DataError, match=r"^arm 'etf', seed 0: orient: cat\.jpg"):
        run(plain("etf"), tmp_path / "out")


def test_resolved_arms_say_how_they_start(plain):
    arms = resolve_arms(plain(*STARTED)).arms
    assert {name: arm.orient for name, arm in arms.items()} == {n: a.orient for n, a in STARTED.items()}
    assert arms["code"].exponent == 0.5
    assert 0 <= arms["etf"].exponent <= 1
    assert arms["code"].basis is None
    blind = resolve_arms(replace(plain("etf"), arms={"etf": Arm(head="etf")})).arms["etf"]
    assert (blind.orient, blind.exponent, blind.basis) == ("none", None, "hadamard")


def test_a_class_without_images_is_told_before_the_first_step(run, plain, splits, tmp_path):
    splits.plain.labels[splits.plain.labels == 3] = 2
    with pytest.raises(ValueError, match=r"arm 'etf'.*class"):
        run(plain("etf"), tmp_path / "out")
