"""A run that was stopped and continued ends with the numbers of one that was not."""

import dataclasses
import json
import shutil
import signal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from etfhead.errors import CheckpointError, Interrupted
from etfhead.experiment import runner
from etfhead.experiment.recipe import Arm
from etfhead.experiment.training import arm_run
from tests.experiment.conftest import Loaded

TIMES = ("train_time", "align_time", "epoch_time", "images_per_s", "collapse_time")
OF_TIMES = ("metrics.jsonl", "sha256")  # checksums of what holds measured times


def assert_same(a, b, where=""):
    """Equal bit for bit, except for measured times."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {*TIMES, *OF_TIMES}:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def assert_same_run(one, other):
    names = ("last.safetensors", "best.safetensors", "state.pt", "metrics.jsonl", "result.json")
    for path in sorted(one.glob("arms/*/*/*")):
        assert path.name in names
        twin = other / path.relative_to(one)
        if path.suffix == ".safetensors":
            assert_same(load_file(path), load_file(twin), path.name)
        elif path.suffix == ".pt":
            assert_same(*(torch.load(p, weights_only=True) for p in (path, twin)), path.name)
        elif path.suffix == ".jsonl":
            assert_same(*([json.loads(line) for line in p.read_text().splitlines()] for p in (path, twin)))
        else:
            assert_same(*(json.loads(p.read_text()) for p in (path, twin)), path.name)


_WHOLE = []


@pytest.fixture
def reference(run, recipe, tmp_path_factory):
    """The uninterrupted run, made once."""
    if not _WHOLE:
        _WHOLE.append(run(recipe, tmp_path_factory.mktemp("whole") / "out"))
    return _WHOLE[0]


# Items are read in batches of 8: 27 is in step 4 of epoch 1, 40 the first of epoch 2, 79 the last of all.
@pytest.mark.parametrize("item", [0, 27, 39, 40, 66, 79])
def test_stopped_at_any_step(run, recipe, splits, tmp_path, reference, kill_at, item):
    kill_at(splits.train, item, signal.SIGTERM)
    with pytest.raises(Interrupted) as stop:
        run(recipe, tmp_path / "cut")
    assert stop.value.signum == signal.SIGTERM
    state = torch.load(tmp_path / "cut/arms/etf/seed0/state.pt", weights_only=True)
    assert state["position"]["updates"] == item // 8 + 1, "stops at the next step boundary"
    splits.train.before = lambda count: None
    run(recipe, tmp_path / "cut", resume=True)
    assert_same_run(reference, tmp_path / "cut")


# The 12 validation images are read before the first step and after each epoch, then the 40 of collapse.
@pytest.mark.parametrize(
    ("part", "item", "left"),
    [
        ("val", 3, 80),
        ("val", 12 + 3, 40),
        ("val", 24 + 3, 0),
        ("plain", 3, 80),
        ("plain", 40 + 3, 40),
        ("test", 3, 0),
    ],
)
def test_stopped_while_evaluating(run, recipe, splits, tmp_path, reference, kill_at, part, item, left):
    dataset = getattr(splits, part)
    dataset.read.clear()
    kill_at(dataset, item, signal.SIGINT)
    with pytest.raises(Interrupted) as stop:
        run(recipe, tmp_path / "cut")
    assert stop.value.signum == signal.SIGINT
    dataset.before = lambda count: None
    trained = len(splits.train.read)
    run(recipe, tmp_path / "cut", resume=True)
    assert len(splits.train.read) - trained == left, "no step is trained twice"
    assert_same_run(reference, tmp_path / "cut")


def test_stopped_twice_and_again(run, recipe, splits, tmp_path, reference, kill_at):
    for item in (10, 15, 20):
        kill_at(splits.train, item, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(recipe, tmp_path / "cut", resume=True)
    splits.train.before = lambda count: None
    run(recipe, tmp_path / "cut", resume=True)
    assert_same_run(reference, tmp_path / "cut")


def test_metrics_go_back_to_what_the_checkpoint_knows(run, recipe, splits, tmp_path, reference, kill_at):
    kill_at(splits.train, 50, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "cut")
    metrics = tmp_path / "cut/arms/etf/seed0/metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"epoch": 1, "val_top1": 99.9}\n{"epo')
    splits.train.before = lambda count: None
    run(recipe, tmp_path / "cut", resume=True)
    assert_same_run(reference, tmp_path / "cut")


def test_damaged_checkpoint_falls_back_to_the_previous_one(
    run, recipe, splits, tmp_path, reference, kill_at, capsys
):
    kill_at(splits.train, 60, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "cut")
    folder = tmp_path / "cut/arms/etf/seed0"
    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:-5000])
    splits.train.before = lambda count: None
    capsys.readouterr()
    run(recipe, tmp_path / "cut", resume=True)
    told = capsys.readouterr().err
    assert f"refused {folder / 'state.pt'}" in told
    assert f"continuing from {folder / 'state.prev.pt'}" in told
    assert_same_run(reference, tmp_path / "cut")


def test_no_good_checkpoint_stops_and_says_how_to_start_again(run, recipe, splits, tmp_path, kill_at):
    kill_at(splits.train, 60, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "cut")
    folder = tmp_path / "cut/arms/etf/seed0"
    splits.train.before = lambda count: None
    for name in ("state.pt", "state.prev.pt"):
        (folder / name).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=rf"no usable checkpoint.*delete {folder}"):
        run(recipe, tmp_path / "cut", resume=True)
    for name in ("state.pt", "state.prev.pt"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is left"):
        run(recipe, tmp_path / "cut", resume=True)


def test_finished_arms_are_not_run_again_and_new_ones_are_added(run, recipe, splits, tmp_path, monkeypatch):
    out = run(recipe, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.glob("arms/**/*.*")}
    trained = []
    build = arm_run.Session.build
    monkeypatch.setattr(
        arm_run.Session,
        "build",
        lambda recipe, arm, seed, *rest, **options: (
            trained.append((arm, seed)) or build(recipe, arm, seed, *rest, **options)
        ),
    )
    run(recipe, out, resume=True)
    assert trained == []
    more = dataclasses.replace(recipe, arms={**recipe.arms, "stock": Arm()}, seeds=(0, 1))
    run(more, out, resume=True)
    assert trained == [("stock", 0), ("etf", 1), ("stock", 1)], "seed by seed, finished ones left out"
    assert before == {path: path.stat().st_mtime_ns for path in before}
    environment = json.loads((out / "env.json").read_text())
    assert len(environment["earlier"]) == 2


def test_seeds_trained_elsewhere_are_joined_by_copying(run, recipe, tmp_path, monkeypatch):
    whole = run(dataclasses.replace(recipe, seeds=(0, 1)), tmp_path / "whole")
    parts = [run(dataclasses.replace(recipe, seeds=(seed,)), tmp_path / f"part{seed}") for seed in (0, 1)]
    shutil.copytree(parts[1] / "arms", parts[0] / "arms", dirs_exist_ok=True)
    monkeypatch.setattr(arm_run.Session, "build", lambda *_, **__: pytest.fail("trained again"))
    joined = run(dataclasses.replace(recipe, seeds=(0, 1)), parts[0], resume=True)
    for seed in (0, 1):
        figures = [
            json.loads((out / f"arms/etf/seed{seed}/result.json").read_text()) for out in (whole, joined)
        ]
        assert_same(*figures, f"seed {seed}")


def test_other_data_are_refused_and_nothing_changes(run, recipe, splits, tmp_path, monkeypatch):
    out = run(recipe, tmp_path / "out")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = dataclasses.replace(splits, info={**splits.info, "digest": "other"})
    monkeypatch.setattr(runner, "read_data", lambda recipe: Loaded(other))
    with pytest.raises(CheckpointError, match=r"other data \(digest tiny there, other now\)"):
        run(recipe, out, resume=True)
    (out / "data.json").unlink()  # then the checkpoint's own record still tells
    with pytest.raises(CheckpointError, match="data_digest is 'tiny' there, 'other' now"):
        run(recipe, out, resume=True)
    assert {path: path.read_bytes() for path in before if "arms" in path.parts} == {
        path: data for path, data in before.items() if "arms" in path.parts
    }


def test_damaged_result_is_evaluated_again(run, recipe, tmp_path, capsys):
    out = run(recipe, tmp_path / "out")
    result = out / "arms/etf/seed0/result.json"
    good = result.read_bytes()
    for bad in (good[:100], good.replace(b'"test_top1": 2', b'"test_top1": 3'), b"[]"):
        assert bad != good
        result.write_bytes(bad)
        capsys.readouterr()
        run(recipe, out, resume=True)
        assert f"refused {result}: damaged" in capsys.readouterr().err
        assert result.read_bytes() == good
    result.unlink()
    run(recipe, out, resume=True)
    assert result.read_bytes() == good


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors", "metrics.jsonl"])
def test_damaged_files_of_a_finished_arm_are_restored_from_its_checkpoint(
    run, recipe, tmp_path, name, capsys
):
    out = run(recipe, tmp_path / "out")
    path = out / "arms/etf/seed0" / name
    good = path.read_bytes()
    for bad in (good[:-7], good[:-7] + bytes([good[-7] ^ 1]) + good[-6:], None):
        path.unlink() if bad is None else path.write_bytes(bad)
        capsys.readouterr()
        run(recipe, out, resume=True)
        assert f"refused {path}: {'missing' if bad is None else 'damaged'}" in capsys.readouterr().err
        assert path.read_bytes() == good
    path.unlink()
    (path.parent / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=f"{name}: missing, but no checkpoint is left"):
        run(recipe, out, resume=True)


def test_result_and_weights_tell_where_they_come_from(reference):
    folder = reference / "arms/etf/seed0"
    result = json.loads((folder / "result.json").read_text())
    assert result["complete"] is True
    assert (result["epochs"], result["steps"]) == (2, 10)
    assert result["weights"] == "moving average"
    for kind in ("last", "best"):
        with safe_open(folder / f"{kind}.safetensors", "pt") as file:
            assert file.metadata()["epoch"] == str(result[kind]["epoch"])
            assert (file.metadata()["arm"], file.metadata()["seed"]) == ("etf", "0")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(records, key=lambda record: record["val_top1"])  # max keeps the first of equals
    assert result["best"]["epoch"] == best["epoch"]
