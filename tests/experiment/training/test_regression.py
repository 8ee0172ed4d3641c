"""A comparison on real-valued targets from recipe to report: trains, resumes, measures collapse."""

import csv
import dataclasses
import json
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from etfhead.errors import DataError, Interrupted
from etfhead.experiment.data import load_data
from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.report import summarize
from etfhead.experiment.runner import run
from etfhead.experiment.training.arms import build_loss, build_model, resolve_arms
from etfhead.experiment.training.class_losses import LossFacts
from etfhead.frames import target_statistics
from etfhead.surgery import find_heads
from tests.experiment.training.test_resume import assert_same_run

LEARNABLE, FIXED = Arm(loss="mse"), Arm(head="regression", loss="mse", feature_energy=2.0)
WHITE = Arm(head="regression", loss="mse", loss_options={"whiten": True}, basis="hadamard")


def table(**changes):
    options = {
        "name": "tiny",
        "model": "etfhead_mlp",
        "model_kwargs": {"widths": [16], "linear_widths": [8]},
        "img_size": 1,
        "in_chans": 5,
        "dataset": "regression_synthetic",
        "val_fraction": 0.25,
        "batch_size": 32,
        "epochs": 3,
        "opt": "sgd",
        "lr": 0.05,
        "weight_decay": 0.01,
        "cpu": True,
        "seeds": (0, 1),
        "arms": {"learnable": LEARNABLE, "fixed": FIXED, "white": WHITE},
        "baseline": "learnable",
    }
    return Recipe(**{**options, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(table(), tmp_path_factory.mktemp("runs") / "out")


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_figure_is_there_and_no_class_figure(finished):
    folder = finished / "arms" / "fixed" / "seed0"
    history, result = rows(folder), json.loads((folder / "result.json").read_text())
    assert {"train_r2", "val_r2", "val_nmse", "val_mse", "val_mse_2", "nrc1", "nrc2", "nrc3"} <= history[
        -1
    ].keys()
    assert {"nrc1", "nrc2", "nrc3", "nrc_energy", "collapse_time"} <= result["initial"].keys()
    assert {"test_r2", "test_nmse", "test_mse", "test_mse_0", "test_loss"} <= result["last"].keys()
    every = {key for part in (*history, result["last"], result["initial"]) for key in part}
    assert not [key for key in every if "top1" in key or "ece" in key or key.startswith("collapse_nc")]
    assert history[-1]["val_r2"] > history[0]["val_r2"] > result["initial"]["val_r2"]
    assert result["params_head"] == 0


def test_the_report_is_about_r2(finished):
    summary = summarize(finished)
    assert summary["primary"] == "test_r2_best"
    assert summary["arms"]["fixed"]["kind"] == "fixed"
    assert [entry["name"] for entry in summary["arms"]["white"]["target_errors"]] == [
        "target 0",
        "target 1",
        "target 2",
    ]
    best = [json.loads((finished / f"arms/fixed/seed{s}/result.json").read_text())["best"] for s in (0, 1)]
    entry = summary["arms"]["fixed"]["target_errors"][1]["mse"]
    assert entry["mean"] == pytest.approx(np.mean([figures["test_mse_1"] for figures in best]))
    by_epoch = summary["arms"]["learnable"]["collapse_by_epoch"]
    assert [row["epoch"] for row in by_epoch] == [0, 1, 2, 3]
    assert by_epoch[-1]["nrc2"]["mean"] == summary["arms"]["learnable"]["figures"]["nrc2"]["mean"]
    text = (finished / "report.md").read_text()
    for part in (
        "## R²",
        "## Regression collapse",
        "## Every target",
        "NRC1 at start",
        "regression_collapse.png",
    ):
        assert part in text
    assert "calibration" not in text
    assert "accuracy" not in text.lower()
    assert "Half the squared error of standardised targets" in text
    arms = text.split("## Arms")[1].split("\n## ")[0]
    assert "whiten" in arms.split("| white ")[1]
    assert (finished / "regression_collapse.png").stat().st_size > 1000
    assert not (finished / "collapse.png").exists()
    header = next(csv.reader((finished / "summary.csv").open()))
    assert {"test_r2_best", "test_nmse_best", "nrc1", "nrc2", "nrc3"} <= set(header)
    assert not [name for name in header if "top1" in name or "collapse_nc" in name]


def test_the_run_folder_tells_units_and_names(finished):
    data = json.loads((finished / "data.json").read_text())
    assert data["class_names"] == ["target 0", "target 1", "target 2"]
    assert len(data["target_mean"]) == len(data["target_std"]) == 3
    assert data["columns"] == 5


def test_the_head_is_made_from_the_training_split_alone():
    recipe = table()
    splits = load_data(recipe)
    facts = LossFacts.of(splits)
    expected = target_statistics(splits.train.targets)
    assert torch.allclose(facts.target_statistics.covariance, expected.covariance, atol=1e-5)
    model = build_model(recipe, WHITE, 3, 0, target_statistics=facts.target_statistics)
    (head,) = find_heads(model).values()
    assert head.whiten
    assert torch.allclose(head.target_covariance.double(), expected.covariance, atol=1e-5)
    loss = build_loss(recipe, WHITE, model, facts)
    outputs = torch.randn(6, 3)
    by_head = (head.whitened(outputs) - head.whitened(splits.train.targets[:6])).square().sum(1).mean() / 2
    assert torch.allclose(loss(outputs, splits.train.targets[:6]), by_head, rtol=1e-4)
    assert build_loss(recipe, LEARNABLE, model, facts).whitening is None


def test_every_statistic_is_of_the_training_split():
    splits = load_data(table())
    train = torch.stack([splits.plain[i][0].flatten() for i in range(len(splits.plain))])
    assert torch.allclose(train.mean(0), torch.zeros(5), atol=1e-5)
    assert torch.allclose(train.std(0, correction=0), torch.ones(5), atol=1e-5)
    assert torch.allclose(splits.train.targets.mean(0), torch.zeros(3), atol=1e-5)
    test = torch.stack([splits.test[i][0].flatten() for i in range(len(splits.test))])
    assert not torch.allclose(test.mean(0), torch.zeros(5), atol=1e-3)


def test_a_saved_model_needs_no_targets(finished):
    recipe = table()
    model = build_model(recipe, FIXED, 3, 0)
    model.load_state_dict(load_file(finished / "arms/fixed/seed0/best.safetensors"))
    facts = LossFacts.of(load_data(recipe))
    same = build_model(recipe, FIXED, 3, 0, target_statistics=facts.target_statistics)
    assert torch.allclose(model.fc.weight, same.fc.weight)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, finished, monkeypatch):
    from etfhead.experiment.training import engine

    recipe, out = table(seeds=(0,)), tmp_path / "out"
    calls = []

    def stop_in_the_middle(session, loss, clip_grad):
        calls.append(1)
        if len(calls) == 12:
            signal.raise_signal(signal.SIGTERM)
        return update(session, loss, clip_grad)

    update = engine.update_weights
    monkeypatch.setattr(engine, "update_weights", stop_in_the_middle)
    with pytest.raises(Interrupted):
        run(recipe, out)
    monkeypatch.undo()
    run(recipe, out, resume=True)
    for arm in recipe.arms:
        assert_same_run(out / "arms" / arm / "seed0", finished / "arms" / arm / "seed0")


def test_images_have_real_valued_targets(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    y = np.stack([x.mean((1, 2, 3)), x[:, :4].mean((1, 2, 3))], axis=1)
    np.savez(tmp_path / "images.npz", x=x, y=y)
    recipe = table(
        model="test_resnet",
        model_kwargs={},
        img_size=8,
        in_chans=3,
        dataset="regression_npz",
        data_root=str(tmp_path / "images.npz"),
        batch_size=16,
        epochs=1,
        seeds=(0,),
        arms={"learnable": LEARNABLE, "fixed": FIXED},
    )
    out = run(recipe, tmp_path / "out")
    assert len(summarize(out)["runs"]) == 2
    gray = load_data(dataclasses.replace(recipe, in_chans=1))
    assert gray.train[0, 0][0].shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"learnable": Arm()}}, "arms.learnable.loss: cross_entropy is of classes"),
        (
            {"arms": {"learnable": Arm(head="cosine", loss="mse")}},
            "arms.learnable.head: cosine is of classes",
        ),
        ({"arms": {"learnable": Arm(loss="mse", orient="inputs")}}, "orient: class means need classes"),
        ({"arms": {"learnable": Arm(loss="mse", loss_options={"q": 1})}}, "loss: mse has whiten"),
        ({"arms": {"learnable": Arm(loss="mse", loss_options={"whiten": 2})}}, "loss: mse has whiten"),
        ({"arms": {"learnable": Arm(loss="mse", posthoc=1.0)}}, "posthoc: class shares need classes"),
        ({"smoothing": 0.1}, "smoothing: of classes"),
        ({"mixup": 0.1}, "mixup: of classes"),
        ({"redraw": True}, "redraw: "),
        ({"primary_metric": "top1"}, "primary_metric: .*write r2 or null"),
        ({"data_root": "x"}, "data_root: .*reads no file"),
        ({"download": True}, "download: .*cannot be downloaded"),
        ({"noise_kind": "symmetric", "noise_rate": 0.2}, "noise_kind"),
        ({"imbalance_factor": 10.0}, "imbalance_factor"),
        ({"dataset": "digits", "in_chans": 1}, "arms.fixed.head: regression is for real-valued targets"),
        ({"dataset": "digits", "in_chans": 5}, r"in_chans: expected 1 \(grey\) or 3 \(RGB\)"),
    ],
)
def test_what_does_not_fit_real_valued_targets_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        table(**changes)


def saved(folder, **changes):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(60, 5)), "y": rng.normal(size=(60, 3))}
    np.savez(folder / "set.npz", **{**arrays, **changes})
    return {"dataset": "regression_npz", "data_root": str(folder / "set.npz")}


def dependent(y):
    return np.concatenate([y, y[:, :1] - 2 * y[:, 1:2]], axis=1)


def test_sizes_of_a_table_are_checked_against_the_model(tmp_path):
    with pytest.raises(DataError, match=r"in_chans: .*is a table of 5 columns.* write in_chans: 5, got 3"):
        load_data(table(in_chans=3, **saved(tmp_path)))
    with pytest.raises(DataError, match=r"img_size: .*write img_size: 1, got 8"):
        load_data(table(img_size=8, **saved(tmp_path)))
    with pytest.raises(DataError, match=r"no_aug: of images alone"):
        load_data(table(no_aug=False, **saved(tmp_path)))


def test_dependent_constant_and_too_many_targets_are_refused_before_anything_is_written(tmp_path):
    y = np.random.default_rng(1).normal(size=(60, 2))
    recipe = table(arms={"learnable": LEARNABLE, "fixed": FIXED}, **saved(tmp_path, y=dependent(y)))
    with pytest.raises(
        ValueError, match=r"arm 'fixed': .*targets: their covariance is singular: .* t0 .* t2"
    ):
        run(recipe, tmp_path / "out")
    white = Arm(loss="mse", loss_options={"whiten": True})
    with pytest.raises(ValueError, match=r"arm 'learnable': targets: their covariance is singular"):
        run(dataclasses.replace(recipe, arms={"learnable": white}), tmp_path / "out")
    with pytest.raises(DataError, match=r"1 of 2 targets are the same number .*'target 1'"):
        run(table(**saved(tmp_path, y=np.stack([y[:, 0], np.ones(60)], axis=1))), tmp_path / "out")
    many = np.random.default_rng(1).normal(size=(60, 9))
    with pytest.raises(ValueError, match=r"arm 'fixed': .*num_targets=9 with in_features=8"):
        run(table(arms={"learnable": LEARNABLE, "fixed": FIXED}, **saved(tmp_path, y=many)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dependent_targets_can_be_allowed(tmp_path):
    y = np.random.default_rng(1).normal(size=(60, 2))
    allowed = dataclasses.replace(WHITE, allow_singular=True)
    recipe = table(
        arms={"learnable": LEARNABLE, "fixed": allowed}, seeds=(0,), **saved(tmp_path, y=dependent(y))
    )
    assert summarize(run(recipe, tmp_path / "out"))["finished"] == 2


def test_open_options_are_resolved():
    resolved = resolve_arms(table(arms={"learnable": LEARNABLE, "fixed": Arm(head="regression", loss="mse")}))
    arm = resolved.arms["fixed"]
    assert (arm.feature_energy, arm.allow_singular, arm.neck, arm.basis) == ("auto", False, "none", "haar")
    assert resolved.primary_metric == "r2"
    assert resolve_arms(resolved) == resolved
