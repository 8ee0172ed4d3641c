import pytest
import torch
from torch import nn

from etfhead.experiment.training.reweighted import ReweightedLoss, begin_epoch
from etfhead.losses import LDAMLoss, LogitAdjustedLoss, effective_number_weights

COUNTS = [500, 40, 6]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 3, generator=generator), torch.randint(3, (12,), generator=generator)


def test_is_torchs_weighted_cross_entropy_once_it_begins(batch):
    weight = effective_number_weights(COUNTS, beta=0.99)
    loss = ReweightedLoss(nn.CrossEntropyLoss(reduction="none"), COUNTS, start=0.8, beta=0.99)
    for epoch in range(10):
        begin_epoch(nn.ModuleList([loss]), epoch, 10)
        expected = nn.functional.cross_entropy(*batch, weight=weight if epoch >= 8 else None)
        torch.testing.assert_close(loss(*batch), expected)


def test_from_the_start():
    loss = ReweightedLoss(nn.CrossEntropyLoss(reduction="none"), COUNTS, start=0.0)
    assert loss.active
    loss.begin_epoch(0, 1)
    assert loss.active


def test_is_ldams_own_weight(batch):
    weight = effective_number_weights(COUNTS, beta=0.999)
    loss = ReweightedLoss(LDAMLoss(COUNTS, scale=4.0, reduction="none"), COUNTS, start=0.0)
    torch.testing.assert_close(loss(*batch), LDAMLoss(COUNTS, scale=4.0, weight=weight)(*batch))


def test_mixed_targets_weigh_by_their_shares(batch):
    logits, target = batch
    rows = nn.functional.one_hot(target, 3).float()
    loss = ReweightedLoss(LogitAdjustedLoss(COUNTS, reduction="none"), COUNTS, start=0.0)
    torch.testing.assert_close(loss(logits, rows), loss(logits, target))


def test_other_losses_are_left_alone():
    begin_epoch(nn.CrossEntropyLoss(), 0, 1)
