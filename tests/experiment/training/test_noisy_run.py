"""A comparison on noisy labels: what it measures, what it leaves behind, and the same after a resume."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from etfhead.errors import Interrupted
from etfhead.experiment.data import load_data
from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.report.features_plot import draw_features
from etfhead.experiment.report.memorization_plot import draw_memorization
from etfhead.experiment.report.memorization_section import memorization
from etfhead.experiment.report.records import read_run
from etfhead.experiment.report.summary import summarize_records
from etfhead.experiment.runner import run
from etfhead.experiment.training import engine
from etfhead.experiment.training.arms import build_model, resolve_arms
from etfhead.experiment.training.memorization import noisy_subset
from etfhead.metrics import memorization_figures

MEASURED = {"md_dilation", "md_dilation_relative", "md_memorization", "md_memorization_relative", "md_time"}
MEASURED |= {"md_memorized_fraction", "md_nc1_train_true", "md_nc1_train_observed", "md_noise_rate"}


@pytest.fixture
def noisy():
    return Recipe(
        name="noisy",
        model="etfhead_mlp",
        model_kwargs={"widths": [16, 6], "norm": "batchnorm"},
        img_size=8,
        in_chans=1,
        dataset="synthetic",
        batch_size=32,
        noise_kind="symmetric",
        noise_rate=0.4,
        collapse_every=2,
        collapse_images=100,
        epochs=3,
        lr=1e-2,
        weight_decay=0.0,
        cpu=True,
        redraw=True,
        seeds=(0,),
        arms={"learnable": Arm(head="linear"), "etf": Arm(head="etf")},
        baseline="learnable",
    )


@pytest.fixture(autouse=True)
def without_report(monkeypatch):
    """Pictures take longer than these trainings; tests that look at them ask for them."""
    monkeypatch.setattr("etfhead.experiment.report.write_report", lambda out: out)


def read(out, arm="etf", seed=0):
    folder = out / "arms" / arm / f"seed{seed}"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "result.json").read_text()), rows


def test_measured_with_collapse_and_on_test_at_the_end(noisy, tmp_path):
    out = run(noisy, tmp_path / "out")
    result, rows = read(out)
    assert all(row.keys() >= MEASURED for row in (result["initial"], rows[1], rows[2]))
    assert not MEASURED & rows[0].keys()
    assert all("val_true_top1" in row for row in (result["initial"], *rows))
    assert all(f"test_md_{key}" in result["last"] for key in ("dilation", "dilation_relative"))
    assert result["md_time"] == pytest.approx(
        sum(row.get("md_time", 0) for row in (result["initial"], *rows))
    )
    assert not list(out.glob("arms/*/*/features.npz"))  # six features, ten classes: no plane


def test_the_figures_are_those_of_the_last_weights(noisy, tmp_path):
    out = run(noisy, tmp_path / "out")
    result, rows = read(out)
    splits = load_data(noisy, 0)
    model = build_model(noisy, resolve_arms(noisy).arms["etf"], 10, seed=0).eval()
    model.load_state_dict(load_file(out / "arms/etf/seed0/last.safetensors"))
    head = model.get_classifier()

    def see(dataset, at):
        images = torch.stack([dataset[int(i)][0] for i in at])
        with torch.no_grad():
            return head.features_behind_neck(model.forward_features(images)), model(images)

    observed = np.array(splits.plain.labels)
    at = noisy_subset(observed, splits.true_train, 100, 0)
    features, logits = see(splits.plain, at)
    held, scores = see(splits.val, range(len(splits.val)))
    expected = memorization_figures(
        features,
        torch.from_numpy(splits.true_train[at]),
        torch.from_numpy(observed[at]),
        10,
        predictions=logits,
        test_features=held,
        test_labels=torch.from_numpy(splits.true_val),
    )
    for key, value in expected.items():
        assert rows[-1][f"md_{key}"] == pytest.approx(float(value), rel=1e-4), key
    assert rows[-1]["md_noise_rate"] == pytest.approx(splits.info["label_noise"]["train_rate"], abs=0.05)
    true, seen = torch.from_numpy(splits.true_val), torch.tensor(splits.val.labels)
    assert rows[-1]["val_true_top1"] == pytest.approx(100 * (scores.argmax(1) == true).double().mean().item())
    assert rows[-1]["val_top1"] == pytest.approx(100 * (scores.argmax(1) == seen).double().mean().item())
    test, _ = see(splits.test, range(len(splits.test)))
    labels = torch.tensor(splits.test.labels)
    alone = memorization_figures(
        features[:0], labels[:0], labels[:0], 10, test_features=test, test_labels=labels
    )
    assert result["last"]["test_md_dilation"] == pytest.approx(float(alone["dilation"]), rel=1e-4)


def test_without_noise_nothing_of_it_is_written(noisy, tmp_path):
    out = run(replace(noisy, noise_kind=None, noise_rate=0.0, redraw=False, epochs=1), tmp_path / "out")
    result, rows = read(out)
    assert not any(
        key.startswith("md_") or "true" in key for row in (*rows, result["initial"]) for key in row
    )
    assert not any("md_" in key for key in (*result["last"], *result["best"]))
    records = read_run(out)
    summary = summarize_records(records)
    assert memorization(summary, []) == []
    assert "memorization_differences" not in summary
    assert draw_memorization(records, summary) is None
    assert draw_features(records, summary) is None


def test_measuring_does_not_touch_the_training(noisy, tmp_path):
    every, never = (run(replace(noisy, collapse_every=n), tmp_path / str(n)) for n in (1, 0))
    for arm in noisy.arms:
        one, other = (load_file(out / f"arms/{arm}/seed0/last.safetensors") for out in (every, never))
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert not any(key.startswith("md_") for row in read(never)[1] for key in row)


@pytest.mark.parametrize(("widths", "classes"), [([16, 2], None), ([16, 6], (0, 5))])
def test_features_are_left_for_the_picture(noisy, tmp_path, widths, classes):
    kwargs = {"widths": widths, "norm": "batchnorm"}
    recipe = replace(
        noisy, model_kwargs=kwargs, classes=classes, seeds=(2, 3), epochs=1, arms={"a": Arm()}, baseline="a"
    )
    out = run(recipe, tmp_path / "out")
    assert not (out / "arms/a/seed3/features.npz").exists()  # one seed is enough to look at
    with np.load(out / "arms/a/seed2/features.npz") as file:
        arrays = dict(file)
    assert arrays["train"].shape == (len(arrays["true"]), 2)
    assert (arrays["true"] != arrays["observed"]).any()
    assert arrays["test"].shape == (len(arrays["test_true"]), 2)
    assert arrays["boundary"].shape == ((3,) if classes else (0,))
    records = read_run(out)
    assert draw_features(records, summarize_records(records)) is not None


STATEFUL = {
    "early_learning": Arm(head="linear", loss="early_learning"),
    "sop": Arm(head="etf", loss="sparse_overparametrization"),
}


@pytest.mark.parametrize("loss", STATEFUL)
@pytest.mark.parametrize("stop_at", [5, 9])
def test_a_loss_with_a_memory_resumes_to_the_same_numbers(noisy, tmp_path, monkeypatch, loss, stop_at):
    recipe = replace(noisy, arms={loss: STATEFUL[loss]}, baseline=loss, epochs=2, collapse_every=1)
    whole = run(recipe, tmp_path / "whole")
    update, calls = engine.update_weights, []

    def update_and_stop(*given):
        update(*given)
        calls.append(1)
        if len(calls) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(engine, "update_weights", update_and_stop)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "cut")
    monkeypatch.setattr(engine, "update_weights", update)
    cut = run(recipe, tmp_path / "cut", resume=True)
    one, other = (torch.load(out / f"arms/{loss}/seed0/state.pt", weights_only=True) for out in (whole, cut))
    assert one["criterion"]
    for part in ("criterion", "model"):
        assert all(torch.equal(value, other[part][key]) for key, value in one[part].items()), part
    (a, rows), (b, again) = read(whole, loss), read(cut, loss)
    times = {"train_time", "epoch_time", "images_per_s", "collapse_time", "md_time"}
    assert [{k: v for k, v in row.items() if k not in times} for row in rows] == [
        {k: v for k, v in row.items() if k not in times} for row in again
    ]
    assert (a["last"], a["best"]) == (b["last"], b["best"])


def test_seeds_train_on_other_labels_and_are_tested_on_the_same_images(noisy, tmp_path):
    out = run(replace(noisy, seeds=(0, 1), epochs=1), tmp_path / "out")
    digests = {read(out, "etf", seed)[0]["fingerprint"]["data_digest"] for seed in (0, 1)}
    assert len(digests) == 2
    rates = [read(out, "etf", seed)[1][-1]["md_noise_rate"] for seed in (0, 1)]
    draws = json.loads((out / "data.json").read_text())["draws"]
    for seed, rate in enumerate(rates):
        assert rate == pytest.approx(draws[str(seed)]["label_noise"]["train_rate"], abs=0.05)
    assert rates[0] != rates[1]


def test_a_loss_that_needs_the_transition_matrix_gets_it(noisy, tmp_path):
    arm = Arm(loss="forward_correction")
    recipe = replace(noisy, arms={"forward": arm}, baseline="forward", epochs=1)
    assert read(run(recipe, tmp_path / "out"), "forward")[0]["complete"]
    with pytest.raises(ValueError, match="needs a transition matrix"):
        run(replace(recipe, noise_kind=None, noise_rate=0.0, redraw=False), tmp_path / "other")
