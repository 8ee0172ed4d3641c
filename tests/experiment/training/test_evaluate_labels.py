"""Figures of a multi-label split: the whole of it, in its order, whoever held which share."""

import contextlib
import types

import pytest
import torch
from torch import nn

from etfhead.errors import TrainingError
from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.evaluate_labels import evaluate_labels, threshold_objective
from etfhead.heads import MultiLabelETFHead

K, N = 4, 31
PAL = Arm(head="multilabel_etf", loss="pick_all_label", decode="nearest")


def accelerator(world=1):
    return types.SimpleNamespace(
        device=torch.device("cpu"), num_processes=world, autocast=contextlib.nullcontext
    )


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    hot = torch.rand(N, K, generator=generator) < 0.4
    hot[~hot.any(1), 1] = True
    return 3 * hot.float() + torch.randn(N, K, generator=generator), hot.float()


def measure(batches, model=None, world=1, **options):
    shared = {"arm": PAL, "metric": "exact_match", "class_counts": [9, 7, 5, 3]}
    return evaluate_labels(
        model or nn.Identity(), batches, accelerator=accelerator(world), **shared, **options
    )


def test_batches_do_not_matter(data):
    whole, _ = measure([data])
    parts, _ = measure(zip(*(values.split(5) for values in data), strict=True))
    assert whole == parts


@pytest.mark.parametrize("world", [2, 3, 40])
def test_processes_do_not_matter(data, world, monkeypatch):
    """Process r of w holds every w-th item from r on; with more processes than items some hold none."""
    logits, hot = data
    shares = [(logits[rank::world], hot[rank::world].bool()) for rank in range(world)]
    everyone = [share if len(share[0]) else () for share in shares]
    monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: everyone)
    whole, readout = measure([data])
    for rank in (0, world - 1):
        own = [(logits[rank::world], hot[rank::world])] if len(logits[rank::world]) else []
        figures, theirs = measure(own, world=world)
        assert figures == whole
        assert theirs["threshold"] == readout["threshold"]


def test_validation_fits_and_test_takes_what_it_is_given(data):
    val, readout = measure([data])
    assert measure([data], readout=readout)[0] == val
    other = dict(readout, gaps=10 * readout["gaps"])
    assert measure([data], readout=other)[0]["exact_match"] != val["exact_match"]


def test_a_head_that_decodes_is_calibrated_by_validation_alone(data):
    head = MultiLabelETFHead(K, K, neck=None).train()
    features = data[1] @ head.class_vectors()
    _, readout = measure([(features, data[1])], head)
    assert head.training
    assert head.calibration_size == N
    assert head.threshold.item() == pytest.approx(readout["threshold"], rel=1e-6)
    torch.testing.assert_close(head.gaps, readout["gaps"], check_dtype=False)
    measure([(features[:9], data[1][:9])], head, readout=readout)
    assert head.calibration_size == N
    measure([(-features, data[1])], head)  # nothing to fit: no stale calibration stays
    assert head.calibration_size == 0


def test_logits_that_are_not_finite_stop_the_run(data):
    logits, hot = data
    logits[3, 2] = torch.nan
    with pytest.raises(TrainingError, match="logits are not finite"):
        measure([(logits, hot)])


def test_ticks_count_images(data):
    seen = []
    measure(zip(*(values.split(10) for values in data), strict=True), tick=seen.append)
    assert seen == [10, 10, 10, 1]


def test_thresholds_are_tuned_for_the_primary_metric():
    assert threshold_objective("exact_match") == "exact_match"
    assert threshold_objective("map") == "micro_f1"
