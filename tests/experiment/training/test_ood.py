import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import nn

from etfhead.experiment.data import load_data, read_data
from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.runner import run
from etfhead.experiment.training.arms import build_model, resolve_arms
from etfhead.experiment.training.ood import OOD_SCORES, fit_training, ood_figures, ood_scores
from etfhead.losses import log_prior
from etfhead.metrics import nci_score, neco_score, principal_directions

IGNORE = lambda images: None  # noqa: E731


@pytest.fixture
def recipe():
    return Recipe(
        name="ood",
        model="etfhead_mlp",
        model_kwargs={"widths": [16, 12], "norm": "batchnorm"},
        img_size=8,
        in_chans=1,
        dataset="synthetic",
        ood_dataset="digits",
        batch_size=32,
        collapse_every=0,
        epochs=2,
        lr=1e-2,
        cpu=True,
        seeds=(0,),
        arms={"learnable": Arm(head="linear"), "etf": Arm(head="etf")},
        baseline="learnable",
    )


@pytest.fixture(autouse=True)
def without_report(monkeypatch):
    monkeypatch.setattr("etfhead.experiment.report.write_report", lambda out: out)


def stacked(dataset):
    return torch.stack([image for image, _ in dataset.__getitems__(range(len(dataset)))])


def naive(model, splits, shift=0.0):
    """AUROC of each score in percent, by the plain definitions and scikit-learn."""
    layer = model.get_classifier()

    def see(dataset):
        images = stacked(dataset)
        with torch.no_grad():
            features = model.forward_features(images)
            behind = getattr(layer, "features_behind_neck", lambda h: h)
            return behind(features).double(), model(images).double() - shift

    train, _ = see(splits.plain)
    vectors = layer.class_vectors() if hasattr(layer, "class_vectors") else layer.weight
    directions = principal_directions(train)
    columns = {name: [] for name in OOD_SCORES}
    for dataset in (splits.test, splits.ood):
        features, logits = see(dataset)
        ratio = neco_score(features, directions)
        columns["max_logit"].append(logits.amax(1))
        columns["max_softmax"].append(logits.softmax(1).amax(1))
        columns["neco"].append(ratio)
        columns["neco_logit"].append(ratio * logits.amax(1))
        nci = nci_score(features, vectors.detach(), train.mean(0), predictions=logits.argmax(1))
        columns["nci"].append(nci)
    labels = [1] * len(splits.test) + [0] * len(splits.ood)
    return {name: 100 * roc_auc_score(labels, torch.cat(parts)) for name, parts in columns.items()}


@pytest.mark.parametrize("posthoc", [None, 1.0])
def test_figures_of_a_run_are_those_of_its_weights(recipe, tmp_path, posthoc):
    arm = Arm(head="etf", posthoc=posthoc)
    tail = {} if posthoc is None else {"imbalance_factor": 8.0}
    recipe = replace(recipe, arms={"etf": arm}, baseline="etf", **tail)
    out = run(recipe, tmp_path / "out")
    result = json.loads((out / "arms/etf/seed0/result.json").read_text())
    splits = load_data(recipe, 0)
    model = build_model(recipe, resolve_arms(recipe).arms["etf"], 10, seed=0).eval()
    shift = log_prior(splits.class_counts, tau=posthoc) if posthoc else 0.0
    for when in ("last", "best"):
        model.load_state_dict(load_file(out / f"arms/etf/seed0/{when}.safetensors"))
        for name, value in naive(model, splits, shift).items():
            assert result[when][f"test_ood_auroc_{name}"] == pytest.approx(value, abs=0.02), (when, name)
        assert result[when]["test_ood_images"] == len(splits.ood)
        assert "test_ood_problems" not in result[when]
    data = json.loads((out / "data.json").read_text())
    assert data["ood"]["dataset"] == "digits"
    assert data["ood"]["images"] == len(splits.ood)


def test_the_softmax_score_does_not_round_to_one():
    layer = nn.Linear(2, 3, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    accelerator = Accelerator(cpu=True)
    features = torch.tensor([[60.0, 1.0], [50.0, 1.0], [90.0, 0.0], [3.0, 1.0]])
    fit = fit_training(layer, layer, [(features, torch.zeros(4))], accelerator, IGNORE)
    scores = ood_scores(layer, layer, [(features, torch.zeros(4))], fit, None, IGNORE)
    assert scores[:, 1].argsort().tolist() == [3, 1, 0, 2]  # in float32 three of them are 1
    assert (scores[:, 1].exp().float() == 1).sum() == 3


def test_what_cannot_be_scored_is_left_out_with_its_reason(recipe):
    splits = load_data(recipe, 0)
    model = build_model(recipe, resolve_arms(recipe).arms["learnable"], 10, seed=0).eval()
    for parameter in model.parameters():
        parameter.data.zero_()  # all features are one point
    found = ood_figures(recipe, "learnable", model, splits, Accelerator(cpu=True), IGNORE)
    assert found["ood_auroc_max_logit"] == found["ood_auroc_max_softmax"] == 50.0
    assert found["ood_problems"].keys() == {"neco", "neco_logit"}
    assert "are the same" in found["ood_problems"]["neco"]
    assert "ood_auroc_neco" not in found


def test_a_ratio_that_is_one_for_every_image_is_no_score():
    layer = nn.Linear(4, 3)
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))  # alike in all directions
    fit = fit_training(layer, layer, [(features, torch.zeros(500))], Accelerator(cpu=True), IGNORE)
    assert fit.problems.keys() == {"neco", "neco_logit"}
    assert "every direction" in fit.problems["neco"]
    flat = features[:, [0, 1, 0, 1]] + 0.01 * features  # in two of four
    fit = fit_training(layer, layer, [(flat, torch.zeros(500))], Accelerator(cpu=True), IGNORE)
    assert not fit.problems


def test_the_test_transform_and_the_training_normalisation_are_used(recipe):
    splits = load_data(replace(recipe, mean=(0.25,), std=(0.5,), img_size=12), 0)
    assert splits.ood[0][0].shape == (1, 12, 12)
    assert splits.ood.fetch.mean.item() == splits.test.fetch.mean.item() == 0.25
    assert load_data(replace(recipe, in_chans=3), 0).ood[0][0].shape == (3, 8, 8)


def test_without_outliers_nothing_of_it_is_written(recipe, tmp_path):
    recipe = replace(recipe, ood_dataset=None, epochs=1)
    assert load_data(recipe, 0).ood is None
    out = run(replace(recipe, arms={"etf": Arm(head="etf")}, baseline="etf"), tmp_path / "out")
    assert "ood" not in (out / "arms/etf/seed0/result.json").read_text().replace('"ood_dataset": null', "")
    assert "ood" not in json.loads((out / "data.json").read_text())


def test_outliers_that_cannot_be_read_stop_the_run_before_it_starts(recipe, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    recipe = replace(recipe, ood_dataset="npz", ood_root=str(tmp_path / "x.npz"))
    with pytest.raises(ValueError, match=r"ood_dataset: npz .*not a \.npz file"):
        read_data(recipe)
