"""Long tails from a recipe to the splits, and evaluation by class frequency."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from etfhead.experiment.data import load_data
from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.evaluate import evaluate
from etfhead.losses import adjust_logits


@pytest.fixture
def tail(recipe):
    return dataclasses.replace(
        recipe,
        dataset="digits",
        imbalance_factor=10.0,
        imbalance_order="drawn",
        redraw=True,
        mixup=0.0,
        cutmix=0.0,
    )


def test_training_is_long_tailed_and_the_rest_is_as_before(tail):
    splits = load_data(tail, 5)
    whole = load_data(dataclasses.replace(tail, imbalance_factor=None, imbalance_order="file", redraw=False))
    counts = sorted(splits.class_counts, reverse=True)
    assert counts[0] == min(whole.class_counts)
    assert counts[-1] == counts[0] // 10
    assert np.bincount(splits.train.labels).tolist() == list(splits.class_counts)
    assert list(splits.info["imbalance"]["images"].values()) == counts
    assert splits.val.labels == whole.val.labels
    assert splits.test.labels == whole.test.labels
    assert "long tail: exponential" in splits.info["notes"][-1]


def test_seeds_draw_their_own_rare_classes_only_with_redraw(tail):
    assert load_data(tail, 0).class_counts != load_data(tail, 1).class_counts
    fixed = dataclasses.replace(tail, redraw=False)
    assert load_data(fixed, 0).class_counts == load_data(fixed, 1).class_counts
    assert load_data(fixed, 0).info["digest"] == load_data(fixed, 1).info["digest"]
    assert load_data(tail, 0).info["digest"] != load_data(tail, 1).info["digest"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"imbalance_factor": 0.5}, "imbalance_factor: .*>= 1"),
        (
            {"imbalance_factor": None, "redraw": False},
            "imbalance_order: has no effect without imbalance_factor",
        ),
        (
            {"imbalance_factor": None, "imbalance_order": "file", "imbalance_max": 9, "redraw": False},
            "imbalance_max: has no",
        ),
        (
            {"dataset": "multilabel_digits", "arms": {"etf": Arm(loss="pick_all_label")}, "model_ema": False},
            "imbalance_factor: needs one class an image",
        ),
    ],
)
def test_refuses_tails_that_cannot_be(tail, changes, names):
    with pytest.raises(ValueError, match=names):
        dataclasses.replace(tail, **changes)


def test_evaluation_by_frequency_and_after_the_fact():
    torch.manual_seed(0)
    counts = [500, 60, 5]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images, target = torch.randn(60, 1, 2, 2), torch.arange(60) % 3
    batches = [(images[:25], target[:25]), (images[25:], target[25:])]
    options = {"accelerator": Accelerator(cpu=True), "num_classes": 3, "class_counts": counts}
    with torch.no_grad():
        logits = model(images)
    for posthoc in (None, 1.5):
        shown = logits if posthoc is None else adjust_logits(logits, counts, tau=posthoc)
        recall = [100 * (shown[target == k].argmax(1) == k).double().mean().item() for k in range(3)]
        found = evaluate(model, batches, posthoc=posthoc, detailed=True, **options)
        assert found["top1_by_rank"] == pytest.approx(recall)
        assert [found[f"top1_{name}"] for name in ("many", "medium", "few")] == pytest.approx(recall)
        assert found["top1"] == pytest.approx(sum(recall) / 3)
        expected = torch.nn.functional.cross_entropy(shown, target).item()
        assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert "top1_few" not in evaluate(model, batches, accelerator=Accelerator(cpu=True), num_classes=3)
