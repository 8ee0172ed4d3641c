"""What a run writes, refuses and keeps equal between arms."""

import errno
import json
import os
import random
import shlex
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from etfhead.errors import DataError, TrainingError
from etfhead.experiment import runner
from etfhead.experiment.environment import describe_environment
from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.session import Session
from tests.experiment.conftest import Loaded

STEP = 8  # items of a batch


def read(out, arm, seed=0):
    folder = out / "arms" / arm / f"seed{seed}"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "result.json").read_text()), records


@pytest.fixture
def plain(three_arms):
    """AdamW without the extras, so that numbers can be checked by hand."""
    return replace(three_arms, mixup=0.0, cutmix=0.0, model_ema=False, drop=0.0, drop_path=0.0)


def test_files_and_figures(run, plain, splits, tmp_path):
    out = run(plain, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"recipe.yaml", "env.json", "data.json", "arms"}
    data = json.loads((out / "data.json").read_text())
    assert data["class_names"] == ["a", "b", "c", "d"]
    assert data["digest"] == "tiny"
    for arm in plain.arms:
        names = {path.name for path in (out / "arms" / arm / "seed0").iterdir()}
        assert names == {"metrics.jsonl", "last.safetensors", "best.safetensors", "state.pt", "result.json"}
        result, records = read(out, arm)
        assert [(r["epoch"], r["step"]) for r in records] == [(0, 5), (1, 10)]
        for record in records:
            assert record["train_top1"] * 40 / 100 == pytest.approx(round(record["train_top1"] * 40 / 100))
            assert 0 <= record["val_ece"] <= 100
            assert record["train_loss"] > 0
        assert 0 < records[0]["train_time"] < records[1]["train_time"] == result["train_time"]
        assert result["images_per_s"] == pytest.approx(80 / result["train_time"])
        assert result["peak_memory_bytes"] is None
        assert result["device"] == "cpu"
        assert result["weights"] == "model"
        assert result["last"]["epoch"] == 1


def test_test_figures_are_those_of_the_written_weights(run, plain, splits, tmp_path):
    from etfhead.experiment.training.arms import build_model

    out = run(plain, tmp_path / "out")
    images = torch.stack([splits.test[i][0] for i in range(12)])
    for name, arm in plain.arms.items():
        result, _ = read(out, name)
        for kind in ("last", "best"):
            model = build_model(plain, arm, 4, seed=0).eval()
            model.load_state_dict(load_file(out / "arms" / name / "seed0" / f"{kind}.safetensors"))
            with torch.no_grad():
                logits = model(images)
            top1 = 100 * (logits.argmax(1) == splits.test.labels).float().mean().item()
            loss = torch.nn.functional.cross_entropy(logits, splits.test.labels).item()
            assert result[kind]["test_top1"] == pytest.approx(top1)
            assert result[kind]["test_loss"] == pytest.approx(loss, rel=1e-5)


def test_accounting(run, plain, tmp_path):
    """256 features, 4 classes, AdamW: two float32 moments and one float32 step counter a tensor."""
    plain = replace(
        plain,
        arms={
            **plain.arms,
            "etf-fixed": Arm(head="etf", basis="haar", neck="none", scale=8.0, learn_scale=False),
        },
    )
    out = run(plain, tmp_path / "out")
    results = {arm: read(out, arm)[0] for arm in plain.arms}
    assert {arm: result["params_head"] for arm, result in results.items()} == {
        "learnable": 4 * 256 + 4,
        "cosine": 4 * 256 + 1,
        "etf": 1,
        "etf-fixed": 0,
    }
    assert {arm: result["optimizer_state_bytes_head"] for arm, result in results.items()} == {
        "learnable": 2 * 4 * (4 * 256 + 4) + 2 * 4,
        "cosine": 2 * 4 * (4 * 256 + 1) + 2 * 4,
        "etf": 2 * 4 + 4,
        "etf-fixed": 0,
    }
    trunk = {result["params_trainable"] - result["params_head"] for result in results.values()}
    assert len(trunk) == 1
    optimizer_trunk = {
        result["optimizer_state_bytes"] - result["optimizer_state_bytes_head"] for result in results.values()
    }
    assert len(optimizer_trunk) == 1
    assert results["learnable"]["head_bytes"] == 4 * (4 * 256 + 4)
    assert results["learnable"]["params_total"] == trunk.pop() + 4 * 256 + 4
    scales = {arm: read(out, arm)[1][-1]["scale"] for arm in plain.arms}
    assert scales["learnable"] is None
    assert scales["etf-fixed"] == 8.0
    assert scales["etf"] > 0


def test_arms_see_the_same_images_in_the_same_order(run, three_arms, splits, tmp_path):
    run(three_arms, tmp_path / "out")
    orders = [splits.train.read[i * 80 : (i + 1) * 80] for i in range(3)]
    assert len(splits.train.read) == 240
    assert orders[0] == orders[1] == orders[2]
    first, second = orders[0][:40], orders[0][40:]
    assert sorted(i for i, _ in first) == sorted(i for i, _ in second) == list(range(40))
    assert [i for i, _ in first] != [i for i, _ in second]


def test_arms_share_dropout_and_mixup(run, three_arms, tmp_path, monkeypatch):
    """At every step all arms start from the same random state, whatever their heads drew before."""
    drawn = {}
    forward = Session.build.__func__

    def build(cls, recipe, arm, *rest, **options):
        session = forward(cls, recipe, arm, *rest, **options)
        session.model.register_forward_pre_hook(
            lambda model, args: (
                drawn.setdefault(arm, []).append(torch.get_rng_state()) if model.training else None
            )
        )
        return session

    monkeypatch.setattr(Session, "build", classmethod(build))
    run(three_arms, tmp_path / "out")
    one, two, three = (states[1:] for states in drawn.values())  # [0] is the warm-up
    assert len(one) == 10
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, two, three, strict=True))
    assert not torch.equal(one[0], one[1])


def test_global_random_state_is_given_back(run, recipe, tmp_path):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    run(recipe, tmp_path / "out")
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_schedule_and_average_are_those_of_timm(run, recipe, tmp_path):
    """Linear warm-up over the first 5 updates, cosine after; lr is that of an epoch's last update."""
    out = run(recipe, tmp_path / "out")
    _, records = read(out, "etf")
    warm = recipe.warmup_lr + 4 / 5 * (recipe.lr - recipe.warmup_lr)
    cosine = 0.5 * recipe.lr * (1 + np.cos(np.pi * 9 / 10))
    assert [record["lr"] for record in records] == pytest.approx([warm, cosine])
    state = torch.load(out / "arms/etf/seed0/state.pt", weights_only=True)
    last = load_file(out / "arms/etf/seed0/last.safetensors")
    assert all(torch.equal(last[name], state["ema"][name]) for name in last)
    assert not all(torch.equal(last[name], state["model"][name]) for name in last)


def test_nan_image_stops_with_place_and_checkpoint(run, recipe, splits, tmp_path):
    out = tmp_path / "out"

    def poison(count):
        if count == 6 * STEP:  # second step of the second epoch
            splits.train.images[:, :, 0, 0] = float("nan")

    splits.train.before = poison
    with pytest.raises(TrainingError) as error:
        run(recipe, out)
    message = str(error.value)
    assert "arm 'etf', seed 0: the images are not finite (training items" in message
    assert "epoch 2 of 2, step 2 of 5 (update 7)" in message
    state = out / "arms/etf/seed0/state.pt"
    assert f"last good checkpoint: {state}" in message
    saved = torch.load(state, weights_only=True)
    assert saved["position"]["updates"] == 5
    assert all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.parametrize("epoch", [0, 1])
def test_nan_loss_stops_at_its_step(run, recipe, tmp_path, monkeypatch, epoch):
    build = Session.build.__func__

    def sabotage(cls, *args, **options):
        session = build(cls, *args, **options)
        criterion, calls = session.criterion, iter(range(100))

        class Loss(torch.nn.Module):
            def forward(self, logits, target):  # call 0 is the warm-up
                return criterion(logits, target) * (float("nan") if next(calls) == 5 * epoch + 4 else 1.0)

        session.criterion = Loss()
        return session

    monkeypatch.setattr(Session, "build", classmethod(sabotage))
    with pytest.raises(
        TrainingError, match=rf"loss is not finite at epoch {epoch + 1} of 2, step 4 of 5"
    ) as error:
        run(recipe, tmp_path / "out")
    state = tmp_path / "out/arms/etf/seed0/state.pt"
    assert state.exists() == (epoch == 1)
    assert ("no checkpoint was written yet" in str(error.value)) == (epoch == 0)


@pytest.mark.parametrize("stopped", [False, True])
def test_weights_that_stopped_being_finite_are_never_written(run, recipe, tmp_path, monkeypatch, stopped):
    """A gradient can be NaN under a finite loss, in the very step before the epoch ends or a signal comes."""
    build = Session.build.__func__

    def sabotage(cls, *args, **options):
        session = build(cls, *args, **options)
        step, calls = session.optimizer.step, iter(range(100))

        def poisoned():
            step()
            if next(calls) == 9:
                with torch.no_grad():
                    next(session.raw.parameters()).view(-1)[0] = float("nan")
                if stopped:
                    os.kill(os.getpid(), signal.SIGTERM)

        session.optimizer.step = poisoned
        return session

    monkeypatch.setattr(Session, "build", classmethod(sabotage))
    what = r"the weights \(conv_stem.weight\)" if stopped else "the logits"
    with pytest.raises(TrainingError, match=rf"{what} are not finite.* at epoch 2 of 2, step 5 of 5"):
        run(replace(recipe, model_ema=False), tmp_path / "out")
    saved = torch.load(tmp_path / "out/arms/etf/seed0/state.pt", weights_only=True)
    assert saved["position"]["epoch"] == 1
    assert not (tmp_path / "out/arms/etf/seed0/last.safetensors").exists()


def test_full_disk_in_mid_run(run, recipe, tmp_path, monkeypatch):
    sync, out = os.fsync, tmp_path / "out"
    first = out / "arms/etf/seed0/metrics.jsonl"

    def full(handle):
        if first.exists() and os.readlink(f"/proc/self/fd/{handle}").endswith("state.pt.tmp"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*state\.pt: No space left.*untouched"):
        run(recipe, out)
    monkeypatch.setattr(os, "fsync", sync)
    saved = torch.load(out / "arms/etf/seed0/state.pt", weights_only=True)
    assert saved["position"]["epoch"] == 1
    run(recipe, out, resume=True)
    assert read(out, "etf")[0]["complete"] is True


def test_unwritable_output_is_told_before_training(run, recipe, splits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        run(recipe, tmp_path / "file" / "out")
    assert splits.train.read == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sched": "plateau"}, "sched: plateau"),
        ({"opt": "adamww"}, r"opt: .*did you mean 'adamw'"),
        ({"model": "test_vit", "img_size": 20}, "model: .*20"),
        ({"model": "test_efficientnett"}, "did you mean 'test_efficientnet'"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(run, recipe, tmp_path, change, message):
    bad = replace(recipe, **{"baseline": "etf", **change})
    with pytest.raises(ValueError, match=message):
        run(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_classes_than_a_simplex_has_room_for(run, recipe, splits, tmp_path, monkeypatch):
    crowd = replace(splits, num_classes=300)  # the model has 256 features
    monkeypatch.setattr(runner, "read_data", lambda recipe: Loaded(crowd))
    simplex = replace(recipe, arms={"etf": Arm(head="etf", frame="simplex")})
    with pytest.raises(ValueError, match=r"arm 'etf': .*in_features=256.*300"):
        run(simplex, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_overwrite_starts_again_and_keeps_foreign_files(run, recipe, tmp_path):
    out = run(recipe, tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    before = (out / "arms/etf/seed0/result.json").stat().st_mtime_ns
    with pytest.raises(ValueError, match="--overwrite"):
        run(recipe, out)
    with pytest.raises(ValueError, match="timm has no"):
        run(replace(recipe, model="nonsense"), out, overwrite=True)
    assert (out / "arms/etf/seed0/result.json").exists(), "nothing is deleted for a run that cannot start"
    run(replace(recipe, lr=1e-4), out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "arms/etf/seed0/result.json").stat().st_mtime_ns > before
    assert read(out, "etf")[0]["fingerprint"]["lr"] == 1e-4


@pytest.mark.parametrize("batch_size", [40, 64])
def test_more_images_a_batch_than_there_are(run, recipe, tmp_path, capsys, batch_size):
    out = run(replace(recipe, batch_size=batch_size), tmp_path / "out")
    assert read(out, "etf")[0]["steps"] == 2
    note = "note: batch_size 64 is more than the 40 training images: one step of 40 an epoch\n"
    assert capsys.readouterr().err.count(note) == (batch_size == 64)


def test_environment_names_no_person_and_no_machine(run, recipe, tmp_path, monkeypatch):
    import platform
    import socket
    import sys

    # The name of the machine that this runs on may be a word of any file.
    for module, name in ((platform, "node"), (socket, "gethostname")):
        monkeypatch.setattr(module, name, lambda: "janes-machine")
    home = str(tmp_path / "home" / "jane")
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(sys, "argv", [f"{home}/bin/etfhead", "run", f"{home}/my.yaml"])
    environment = json.loads((run(recipe, tmp_path / "out") / "env.json").read_text())
    assert environment["command"] == "etfhead run ~/my.yaml"
    assert environment["torch"] == torch.__version__
    text = json.dumps(environment)
    assert "jane" not in text


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/opt/bin/etfhead", "run", "quickstart", "seeds=[0]"], "etfhead run quickstart 'seeds=[0]'"),
        (
            ["/x/etfhead", "run", "/home/jane/a b/my.yaml", "--out", "o p"],
            "etfhead run ~/'a b/my.yaml' --out 'o p'",
        ),
        (
            ["/x/etfhead", "run", "data_root=/home/jane/d", "name=a  b"],
            "etfhead run 'data_root=~/d' 'name=a  b'",
        ),
        (["/v/etfhead/cli/__main__.py", "run", "quickstart"], "etfhead run quickstart"),
        (
            ["/x/etfhead", "run", "/mnt/home/jane/a.yaml", "data_root=/home/jane2/d", "--out=/home/jane"],
            "etfhead run /mnt/home/jane/a.yaml data_root=/home/jane2/d '--out=~'",
        ),
        (["/x/etfhead", "run", "q", "description=<b> & x"], "etfhead run q 'description=<b> & x'"),
    ],
)
def test_the_command_can_be_pasted(monkeypatch, argv, command):
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setattr("sys.argv", argv)
    assert describe_environment()["command"] == command
    words = [word.replace("~", "/home/jane") for word in shlex.split(command)]
    assert words[1:] == argv[1:]


def test_a_user_without_a_name_and_a_home_trains(monkeypatch):
    """As ``docker run --user 12345`` has it."""
    pwd = pytest.importorskip("pwd")

    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("sys.argv", ["/opt/etfhead", "run", "~/my.yaml"])
    assert describe_environment()["command"] == "etfhead run ~/my.yaml"


def test_the_folder_names_every_default_and_resume_compares_them(run, plain, tmp_path):
    recipe = replace(plain, arms={"etf": Arm(head="etf")}, baseline="etf", epochs=1, warmup_epochs=0)
    out = run(recipe, tmp_path / "out")
    assert "basis: hadamard" in (out / "recipe.yaml").read_text()
    fingerprint = read(out, "etf")[0]["fingerprint"]
    assert (fingerprint["arms.etf.basis"], fingerprint["arms.etf.neck"]) == ("hadamard", "batchnorm")
    run(recipe, out, resume=True)
    # What a later version with another default would ask for.
    with pytest.raises(ValueError, match="basis is 'hadamard' there, 'haar' now"):
        run(replace(recipe, arms={"etf": Arm(head="etf", basis="haar")}), out, resume=True)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_image_that_turns_out_unreadable_is_told_with_what_is_left(run, plain, splits, tmp_path, split):
    out = tmp_path / "out"
    run(replace(plain, arms={"first": Arm()}, baseline="first"), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def fail(count):
        if split != "train" or count >= len(splits.train) + STEP:  # in the second epoch
            raise DataError("cat.jpg: cannot be read as an image")

    dataset = getattr(splits, split)
    dataset.read.clear()
    dataset.before = fail
    recipe = replace(plain, arms={"first": Arm(), "etf": Arm(head="etf")}, baseline="first")
    left = "no checkpoint was written yet" if split == "val" else r"last good checkpoint: .*state\.pt"
    with pytest.raises(DataError, match=rf"^arm 'etf', seed 0: cat\.jpg: cannot be read as an image; {left}"):
        run(recipe, out, resume=True)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed <= {"recipe.yaml", "env.json"}
