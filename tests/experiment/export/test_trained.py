"""A finished model rebuilt from its run folder, and what is said when the folder is not whole."""

import json
import shutil

import pytest
import torch

from etfhead.errors import CheckpointError
from etfhead.experiment.data import load_data
from etfhead.experiment.export import load_trained, rank_models
from etfhead.experiment.report.records import read_run


@pytest.fixture
def copy(digits, tmp_path):
    """Without the checkpoints and the second seed: the whole run has a hundred megabytes."""
    left_out = shutil.ignore_patterns("exports", "state*.pt", "seed1")
    return shutil.copytree(digits, tmp_path / "run", ignore=left_out)


def test_weights_of_another_model(copy):
    path = copy / "arms" / "etf" / "seed0" / "best.safetensors"
    shutil.copy(copy / "arms" / "cosine" / "seed0" / "best.safetensors", path)
    with pytest.raises(CheckpointError, match="another checksum"):
        load(copy)
    records = read_run(copy)
    records.runs["etf"][0].result.pop("files_sha256")  # as an earlier version wrote it
    with pytest.raises(CheckpointError, match="does not fit the model of the recipe"):
        load_trained(records, rank_models(records, arm="etf", seed=0)[0])


def test_real_valued_targets_are_refused(copy):
    records = read_run(copy)
    choice = rank_models(records, arm="etf", seed=0)[0]
    arms = {"a": {"head": "linear", "loss": "mse"}}
    records.recipe.update(dataset="regression_linnerud", arms=arms, baseline="a", primary_metric=None)
    with pytest.raises(ValueError, match="real-valued targets; only classes and label sets"):
        load_trained(records, choice)


def load(run, arm="etf"):
    records = read_run(run)
    return load_trained(records, rank_models(records, arm=arm, seed=0)[0])


@pytest.mark.parametrize("arm", ["learnable", "etf", "cosine", "class_mean", "posthoc"])
def test_test_accuracy_is_the_one_the_run_wrote_down(digits, arm):
    trained = load(digits, arm)
    test = load_data(trained.recipe).test
    batch = torch.stack([test[place][0] for place in range(len(test))])
    with torch.no_grad():
        found = trained.logits(batch).argmax(1)
    right = (found == torch.tensor(test.labels)).double().mean().item()
    assert 100 * right == pytest.approx(trained.result["best"]["test_top1"], abs=1e-9)
    assert not trained.model.training
    assert not any(p.requires_grad for p in trained.model.parameters())


def test_loading_leaves_the_random_state_alone(digits):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(digits)
    assert torch.equal(torch.rand(3), expected)


def test_initial_weights_are_not_looked_for(copy):
    recipe = copy / "recipe.yaml"
    text = recipe.read_text()
    assert "initial_checkpoint: null" in text
    recipe.write_text(text.replace("initial_checkpoint: null", "initial_checkpoint: gone.safetensors"))
    load(copy)


def test_missing_and_damaged_weights(copy):
    path = copy / "arms" / "etf" / "seed0" / "best.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"best\.safetensors: damaged.*--resume"):
        load(copy)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"best\.safetensors: missing"):
        load(copy)


@pytest.mark.parametrize("key", ["class_names", "mean", "std"])
def test_data_facts_that_are_not_there(copy, key):
    path = copy / "data.json"
    facts = json.loads(path.read_text())
    del facts[key]
    facts.pop("sha256", None)  # the seal, under which an edited file counts as damaged
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=rf"data\.json: no usable {key}"):
        load(copy)


def test_label_sets_need_the_state_that_holds_their_thresholds(label_sets, tmp_path):
    run = shutil.copytree(label_sets, tmp_path / "run")
    assert load(run).readout["gaps"] is not None
    (run / "arms" / "etf" / "seed0" / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"state\.pt: missing, and with it the thresholds"):
        load(run)
