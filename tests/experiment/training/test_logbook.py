"""The first best epoch is kept as it was, and a checkpoint gives back what was written down."""

import json

import pytest
import torch
from torch import nn

from etfhead.experiment.training.logbook import Logbook
from etfhead.experiment.training.position import Position


def epoch(log, model, value):
    """Train an epoch of one step that leaves the weights at ``value``, and close it with that figure."""
    nn.init.constant_(model.weight, value)
    log.position.seen, log.position.epoch_time, log.position.step = 10, 2.0, 5
    log.position.correct, log.position.loss_sum = 4.0, 30.0
    log.close_epoch({"map": value}, {"more": 1.0}, model=model, metric="map", hits="train_top1")


@pytest.fixture
def filled():
    log, model = Logbook(Position()), nn.Linear(2, 2)
    log.initial, log.readout = {"val_map": 1.0}, {"threshold": 0.5}
    for value in (3.0, 7.0, 7.0, 5.0):
        epoch(log, model, value)
    return log


def test_the_first_of_equally_good_epochs_is_kept_whatever_the_weights_become(filled):
    assert filled.best["epoch"] == 1
    assert filled.best["val_map"] == 7.0
    assert filled.best["weights"]["weight"].eq(7.0).all()
    assert filled.best["readout"] == {"threshold": 0.5}
    assert [record["val_map"] for record in filled.records] == [3.0, 7.0, 7.0, 5.0]
    assert all(record["train_top1"] == 40.0 and record["more"] == 1.0 for record in filled.records)
    assert (filled.position.epoch, filled.position.step, filled.position.seen) == (4, 0, 0)


def test_a_checkpoint_gives_everything_back(filled, tmp_path):
    torch.save(filled.state(), tmp_path / "state.pt")
    again = Logbook(Position(epoch=9), records=[{}], peak_memory=9)
    again.load(torch.load(tmp_path / "state.pt", weights_only=True))
    weights, expected = again.best.pop("weights"), filled.best.pop("weights")
    assert again == filled
    assert weights.keys() == expected.keys()
    assert all(weights[name].equal(value) for name, value in expected.items())


def test_one_line_an_epoch(filled, tmp_path):
    filled.write_records(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == filled.records
