"""A multi-label comparison from recipe to report: trains, resumes, decides by validation alone."""

import csv
import dataclasses
import json
import signal
import types

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from etfhead.errors import Interrupted
from etfhead.experiment import runner
from etfhead.experiment.data import Splits
from etfhead.experiment.recipe import Arm
from etfhead.experiment.report import summarize
from etfhead.experiment.training import outcome
from tests.experiment.conftest import Loaded
from tests.experiment.training.test_resume import assert_same_run

K = 4
ARMS = {
    "bce": Arm(loss="binary_cross_entropy"),
    "asl": Arm(loss="asymmetric"),
    "pal": Arm(head="cosine", loss="pick_all_label"),
    "etf": Arm(head="multilabel_etf", loss="pick_all_label", pal_normalize=True),
}


class LabelData(Dataset):
    """Sums of label patterns in noise; ``before`` is called with the number of items read so far."""

    def __init__(self, n, *, keyed, seed):
        generator = torch.Generator().manual_seed(seed)
        self.targets = (torch.rand(n, K, generator=generator) < 0.4).float()
        self.targets[self.targets.sum(1) == 0, 0] = 1
        patterns = torch.randn(K, 1, 32, 32, generator=torch.Generator().manual_seed(99))
        self.images = torch.randn(n, 1, 32, 32, generator=generator)
        self.images += torch.einsum("nk,kchw->nchw", self.targets, patterns)
        self.keyed, self.read, self.before = keyed, [], lambda count: None

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, item):
        self.before(len(self.read))
        self.read.append(item)
        index = item[0] if self.keyed else item
        return self.images[index].clone(), self.targets[index]


@pytest.fixture
def splits():
    return Splits(
        train=LabelData(40, keyed=True, seed=0),
        plain=LabelData(40, keyed=False, seed=0),
        val=LabelData(24, keyed=False, seed=1),
        test=LabelData(20, keyed=False, seed=2),
        num_classes=K,
        class_names=("a", "b", "c", "d"),
        class_counts=(19, 16, 15, 9),
        info={"digest": "tiny", "sizes": {"train": 40, "val": 24, "test": 20}},
    )


@pytest.fixture
def labels(recipe):
    """The tiny recipe on several labels: dropout and a moving average stay."""
    return dataclasses.replace(
        recipe,
        dataset="multilabel_synthetic",
        mixup=0.0,
        cutmix=0.0,
        smoothing=0.0,
        arms=ARMS,
        baseline="bce",
    )


@pytest.fixture
def run(monkeypatch, splits):
    monkeypatch.setattr(runner, "read_data", lambda recipe: Loaded(splits))
    return runner.run


def results(out):
    return {path.parts[-3]: json.loads(path.read_text()) for path in out.glob("arms/*/*/result.json")}


def test_every_arm_trains_and_the_report_is_of_exact_match(run, labels, tmp_path, capsys):
    out = run(labels, tmp_path / "out")
    assert "test exact match" in capsys.readouterr().err
    found = results(out)
    assert found.keys() == ARMS.keys()
    for arm, result in found.items():
        rows = [
            json.loads(line) for line in (out / f"arms/{arm}/seed0/metrics.jsonl").read_text().splitlines()
        ]
        assert len(rows) == 2
        assert "val_top1" not in rows[0]
        assert 0 <= rows[0]["train_precision_at_1"] <= 100
        best = max(range(2), key=lambda epoch: rows[epoch]["val_exact_match"])
        assert result["best"]["epoch"] == best
        assert {"test_map_head", "test_f1_tail", "test_exact_match_by_threshold"} <= result["last"].keys()
        assert ("test_exact_match_by_nearest" in result["last"]) == (arm in ("pal", "etf"))
        assert not any(key.startswith("collapse_") for row in rows for key in row)
    summary = summarize(out)
    assert summary["primary"] == "test_exact_match_best"
    assert summary["arms"]["etf"]["kind"] == "fixed"
    text = (out / "report.md").read_text()
    assert "## Exact match" in text
    assert "## Label sets" in text
    assert "accuracy" not in text.lower()
    with (out / "summary.csv").open() as file:
        row = next(csv.DictReader(file))
    assert {"test_exact_match_best", "val_exact_match_best", "target_val_exact_match"} <= row.keys()
    assert not any("top1" in key or "ece" in key for key in row)
    assert (out / "score_epoch.png").exists()
    assert not (out / "accuracy_epoch.png").exists()


@pytest.mark.parametrize("item", [0, 40, 79])
def test_a_run_that_was_stopped_ends_with_the_same_numbers(run, labels, splits, tmp_path, kill_at, item):
    only = dataclasses.replace(labels, arms={"etf": ARMS["etf"]}, baseline="etf")
    whole = run(only, tmp_path / "whole")
    splits.train.read.clear()
    kill_at(splits.train, item, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(only, tmp_path / "cut")
    splits.train.before = lambda count: None
    run(only, tmp_path / "cut", resume=True)
    assert_same_run(whole, tmp_path / "cut")


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_run_stopped_while_evaluating_ends_with_the_same_numbers(
    run, labels, splits, tmp_path, kill_at, part
):
    only = dataclasses.replace(labels, arms={"etf": ARMS["etf"]}, baseline="etf")
    whole = run(only, tmp_path / "whole")
    kill_at(getattr(splits, part), 2, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(only, tmp_path / "cut")
    getattr(splits, part).before = lambda count: None
    run(only, tmp_path / "cut", resume=True)
    assert_same_run(whole, tmp_path / "cut")


def test_the_test_split_has_no_say_in_decisions(run, labels, splits, tmp_path):
    """Other test images leave weights, thresholds and every validation figure as they are."""
    one = run(labels, tmp_path / "one")
    splits.test.images, splits.test.targets = splits.test.images.flip(0) * 3, 1 - splits.test.targets
    other = run(labels, tmp_path / "other")
    for path in sorted(one.glob("arms/*/seed0/*.safetensors")):
        twin = load_file(other / path.relative_to(one))
        assert all(torch.equal(value, twin[key]) for key, value in load_file(path).items())
    for arm in ARMS:
        first, second = (
            torch.load(out / f"arms/{arm}/seed0/state.pt", weights_only=True)["readout"]
            for out in (one, other)
        )
        assert first["threshold"] == second["threshold"]
    assert (
        results(one)["bce"]["last"]["test_exact_match"] != results(other)["bce"]["last"]["test_exact_match"]
    )


def test_saved_weights_decode_as_the_run_did(run, labels, splits, tmp_path):
    only = dataclasses.replace(labels, arms={"etf": ARMS["etf"]}, baseline="etf", model_ema=False)
    out = run(only, tmp_path / "out")
    from etfhead.experiment.training.arms import build_model, resolve_arms
    from etfhead.surgery import find_heads

    resolved = resolve_arms(only)
    model = build_model(resolved, resolved.arms["etf"], K, 0).eval()
    model.load_state_dict(load_file(out / "arms/etf/seed0/last.safetensors"))
    (head,) = find_heads(model).values()
    assert head.normalized_loss
    assert head.calibration_size == len(splits.val)
    with torch.no_grad():
        named = head.decode(model(splits.test.images), max_labels=int(splits.val.targets.sum(1).max()))
    exact = 100 * (named == splits.test.targets.bool()).all(1).double().mean().item()
    assert exact == pytest.approx(results(out)["etf"]["last"]["test_exact_match"], abs=1e-9)


def test_mean_average_precision_can_be_primary(run, labels, tmp_path):
    only = dataclasses.replace(labels, primary_metric="map", arms={"bce": ARMS["bce"]}, baseline="bce")
    summary = summarize(run(only, tmp_path / "out"))
    assert summary["primary"] == "test_map_best"
    assert summary["arms"]["bce"]["figures"]["test_map_best"]["n"] == 1
    assert "% test mAP" in (tmp_path / "out/report.md").read_text() or summary["expected"] == 1


def test_the_test_split_is_never_what_a_readout_is_fitted_to(splits):
    trainer = types.SimpleNamespace(multilabel=True, session=None)
    with pytest.raises(AssertionError):
        outcome._test_figures(trainer, torch.nn.Identity(), splits, None)
