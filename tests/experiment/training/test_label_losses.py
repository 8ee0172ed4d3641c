"""Losses of multi-label arms: against closed forms, and per sample whatever the batch."""

import sys
import types

import pytest
import torch

from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.label_losses import build_label_loss
from etfhead.losses import pick_all_label
from tests.older_timm import loss_cases

LOSSES = ("pick_all_label", "binary_cross_entropy", "asymmetric", "zlpr", "two_way")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6, 5, generator=generator)
    target = torch.zeros(6, 5)
    target[torch.arange(6), torch.arange(6) % 5] = 1
    target[::2, 4] = 1
    return logits, target


@pytest.mark.parametrize("loss", loss_cases(*LOSSES))
def test_is_one_number_with_gradients(loss, batch):
    logits, target = batch
    logits.requires_grad_()
    value = build_label_loss(Arm(loss=loss), 0.0)(logits, target)
    value.backward()
    assert value.shape == ()
    assert logits.grad.isfinite().all()
    assert (logits.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("loss", loss_cases(*LOSSES[:-1]))  # two_way contrasts samples too
def test_a_batch_twice_as_large_means_the_same(loss, batch):
    logits, target = batch
    criterion = build_label_loss(Arm(loss=loss), 0.0)
    once = criterion(logits, target)
    twice = criterion(logits.repeat(2, 1), target.repeat(2, 1))
    torch.testing.assert_close(once, twice)


def test_binary_cross_entropy_sums_labels_and_moves_targets_to_a_half(batch):
    logits, target = batch
    p = logits.sigmoid()
    soft = 0.8 * target + 0.1
    wanted = -(soft * p.log() + (1 - soft) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(
        build_label_loss(Arm(loss="binary_cross_entropy"), 0.2)(logits, target), wanted
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_pick_all_label_takes_its_options(batch, normalize):
    logits, target = batch
    arm = Arm(loss="pick_all_label", pal_normalize=normalize)
    wanted = pick_all_label(logits, target, normalize=normalize, label_smoothing=0.1)
    torch.testing.assert_close(build_label_loss(arm, 0.1)(logits, target), wanted)


def test_asymmetric_is_divided_by_the_batch_in_old_and_new_timm(batch, monkeypatch):
    import timm.loss

    logits, target = batch
    positive = logits.sigmoid()
    negative = (1 - positive + 0.05).clamp(max=1)
    hits = target * (1 - positive) * positive.log()
    misses = (1 - target) * (1 - negative) ** 4 * negative.log()
    wanted = -(hits + misses).sum(1).mean()
    torch.testing.assert_close(build_label_loss(Arm(loss="asymmetric"), 0.0)(logits, target), wanted)

    class Old(torch.nn.Module):
        def forward(self, x, y):
            return wanted * len(x)

    monkeypatch.setattr(timm.loss, "AsymmetricLossMultiLabel", Old)
    torch.testing.assert_close(build_label_loss(Arm(loss="asymmetric"), 0.0)(logits, target), wanted)


@pytest.mark.parametrize("loss", ["zlpr", "two_way"])
def test_a_timm_without_the_loss_is_named(loss, monkeypatch):
    import timm

    older = types.SimpleNamespace(AsymmetricLossMultiLabel=None)
    monkeypatch.setitem(sys.modules, "timm.loss", older)
    monkeypatch.setattr(timm, "loss", older)
    monkeypatch.setattr(timm, "__version__", "1.0.15")
    with pytest.raises(ValueError, match=rf"loss: {loss} is of timm 1\.0\.31 or later, and 1\.0\.15"):
        build_label_loss(Arm(loss=loss), 0.0)
