"""Whole trainings on long tails: stopped and continued, exported seed by seed, and what is refused."""

import dataclasses
import signal

import pytest
import torch

from etfhead.errors import Interrupted
from etfhead.experiment import runner
from etfhead.experiment.data import load_data
from etfhead.experiment.export import load_trained, rank_models
from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.report.records import read_run
from etfhead.losses import log_prior
from tests.experiment.training.test_resume import assert_same_run

DEFERRED = {
    "cross_entropy": Arm(reweight_from=0.5, reweight_beta=1.0),
    "ldam": Arm(head="cosine", loss="ldam", reweight_from=0.5, posthoc=0.5),
}


@pytest.fixture
def splits(splits):
    return dataclasses.replace(splits, class_counts=(24, 8, 5, 3))


# Batches of 8 of 40 items: 40 is the first of epoch 2, whose samples are weighed, and 66 in its middle.
@pytest.mark.parametrize(("name", "item"), [("cross_entropy", 40), ("ldam", 66)])
def test_deferred_weights_survive_a_stop(run, recipe, splits, tmp_path, kill_at, name, item):
    recipe = dataclasses.replace(recipe, arms={"a": DEFERRED[name]}, baseline="a", mixup=0.0, cutmix=0.0)
    whole = run(recipe, tmp_path / "whole")
    kill_at(splits.train, item, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "cut")
    splits.train.before = lambda count: None
    assert_same_run(whole, run(recipe, tmp_path / "cut", resume=True))


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory):
    """Two seeds whose rare classes differ; arms that know the counts."""
    recipe = Recipe(
        name="redrawn",
        model="etfhead_mlp",
        model_kwargs={"widths": [16]},
        img_size=8,
        in_chans=1,
        dataset="digits",
        imbalance_factor=10.0,
        imbalance_order="drawn",
        redraw=True,
        batch_size=32,
        epochs=1,
        lr=3e-3,
        no_aug=True,
        cpu=True,
        collapse_every=0,
        seeds=(0, 1),
        arms={"posthoc": Arm(posthoc=1.5), "seli": Arm(head="etf", frame="seli")},
        baseline="posthoc",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etfhead.experiment.report.write_report", lambda out: out)
        return runner.run(recipe, tmp_path_factory.mktemp("redrawn") / "run")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("arm", ["posthoc", "seli"])
def test_an_export_knows_the_counts_of_its_seed(redrawn, arm, seed):
    records = read_run(redrawn)
    trained = load_trained(records, rank_models(records, arm=arm, seed=seed)[0])
    splits = load_data(trained.recipe, seed)
    assert trained.class_counts == splits.class_counts
    if arm == "seli":
        assert trained.model.get_classifier().frame.class_counts == splits.class_counts
    else:
        torch.testing.assert_close(trained.shift, log_prior(splits.class_counts, tau=1.5).float())
    images = torch.stack([splits.test[place][0] for place in range(len(splits.test))])
    with torch.no_grad():
        right = trained.logits(images).argmax(1) == torch.tensor(splits.test.labels)
    assert 100 * right.double().mean().item() == pytest.approx(trained.result["best"]["test_top1"], abs=1e-9)


@pytest.mark.parametrize(("arm", "needs"), [("posthoc", "posthoc adjustment"), ("seli", "frame seli")])
def test_an_export_without_the_counts_of_its_seed_is_refused(redrawn, arm, needs):
    records = read_run(redrawn)
    choice = rank_models(records, arm=arm, seed=1)[0]
    records.data["draws"].pop("1")
    with pytest.raises(ValueError, match=f"no usable class_counts of seed 1, which the arm's {needs} needs"):
        load_trained(records, choice)


def test_decays_that_collapse_all_classes_are_refused_before_a_folder_is_made(run, recipe, tmp_path):
    plain = dataclasses.replace(recipe, model="etfhead_mlp", model_kwargs={"widths": [8]}, drop_path=0.0)
    decays = {"weight_decay": 10.0, "feature_decay": 10.0}
    arms = {"a": Arm(loss="mse", tail_decay=decays)}
    doomed = dataclasses.replace(plain, arms=arms, baseline="a", mixup=0.0, cutmix=0.0, smoothing=0.0)
    with pytest.raises(ValueError, match="arm 'a': tail_decay: so large that every class collapses"):
        run(dataclasses.replace(doomed, collapse_every=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()
