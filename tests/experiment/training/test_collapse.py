"""Measuring collapse during a comparison: when, on what, and without touching the training."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.arms import build_model
from etfhead.experiment.training.collapse import collapse_is_due, collapse_subset
from etfhead.metrics import neural_collapse

KEYS = {
    f"collapse_{key}" for key in ("nc1", "cdnv", "nc2_equinorm", "nc2_equiangular", "nc2_etf", "nc3", "nc4")
}


def read(out, arm="etf"):
    folder = out / "arms" / arm / "seed0"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "result.json").read_text()), rows


def test_every_epoch_and_the_untrained_model_are_measured(run, recipe, splits, tmp_path):
    result, rows = read(run(recipe, tmp_path / "out"))
    for row in (result["initial"], *rows):
        assert row.keys() >= KEYS | {"collapse_images", "collapse_missing", "collapse_time"}
        assert row["collapse_images"] == 40
    total = sum(row["collapse_time"] for row in (result["initial"], *rows))
    assert result["collapse_time"] == pytest.approx(total)


def test_the_figures_are_those_of_the_model_that_counts(run, recipe, splits, tmp_path):
    out = run(recipe, tmp_path / "out")
    _, rows = read(out)
    model = build_model(recipe, recipe.arms["etf"], 4, seed=0).eval()
    model.load_state_dict(load_file(out / "arms/etf/seed0/last.safetensors"))  # the moving average
    with torch.no_grad():
        features = model.forward_head(model.forward_features(splits.plain.images), pre_logits=True)
        predictions = model(splits.plain.images).argmax(1)
        features = model.classifier.features_behind_neck(features)
    expected = neural_collapse(
        features, splits.plain.labels, 4, weight=model.classifier.class_vectors(), predictions=predictions
    )
    for key in ("nc1", "cdnv", "nc2_etf", "nc3"):
        assert rows[-1][f"collapse_{key}"] == pytest.approx(float(expected[key]), rel=1e-3)


def test_training_is_bit_for_bit_the_same_without_it(run, recipe, tmp_path):
    arms = {"etf": recipe.arms["etf"], "class_mean": Arm(head="class_mean")}
    recipe = replace(recipe, mixup=0.0, cutmix=0.0, arms=arms)
    measured = run(recipe, tmp_path / "with")
    plain = run(replace(recipe, collapse_every=0), tmp_path / "without")
    for arm in arms:
        one, other = (load_file(out / f"arms/{arm}/seed0/last.safetensors") for out in (measured, plain))
        assert all(torch.equal(one[name], other[name]) for name in one)
        result, rows = read(plain, arm)
        assert result["collapse_time"] is None
        assert not any(key.startswith("collapse") for row in (result["initial"], *rows) for key in row)


def test_which_epochs_are_due(recipe):
    recipe = replace(recipe, epochs=7, collapse_every=3)
    assert [epoch for epoch in range(8) if collapse_is_due(recipe, epoch)] == [0, 3, 6, 7]
    assert not any(collapse_is_due(replace(recipe, collapse_every=0), epoch) for epoch in range(8))


def test_the_subset_has_every_class_in_proportion_and_two_of_each_at_least(recipe, splits):
    splits.plain.labels = torch.tensor([0] * 20 + [1] * 10 + [2] * 6 + [3] * 4)
    chosen = collapse_subset(replace(recipe, collapse_images=20), splits).indices
    assert splits.plain.labels[chosen].bincount().tolist() == [10, 5, 3, 2]
    assert chosen == collapse_subset(replace(recipe, collapse_images=20), splits).indices
    assert len(collapse_subset(replace(recipe, collapse_images=2), splits).indices) == 8
    assert len(collapse_subset(recipe, splits).indices) == 40
