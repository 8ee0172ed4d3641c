"""Logit adjustment against the loop over its definition, its limits, and what it is for."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from etfhead.heads import CosineHead, ETFHead
from etfhead.losses import FrameCrossEntropyLoss, LogitAdjustedLoss, adjust_logits, log_prior, logit_adjusted

COUNTS = [500, 90, 7, 1]


def sample(B=9, K=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, generator=generator, dtype=torch.float64)
    return logits, torch.randint(K, (B,), generator=generator)


def naive(logits, labels, counts, tau):
    losses = []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        weights = [n**tau * math.exp(x) for n, x in zip(counts, z, strict=True)]
        losses.append(-math.log(weights[y] / sum(weights)))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_equals_the_naive_loop(tau):
    logits, labels = sample()
    expected = naive(logits, labels, COUNTS, tau)
    options = {"tau": tau}
    torch.testing.assert_close(logit_adjusted(logits, labels, COUNTS, reduction="none", **options), expected)
    torch.testing.assert_close(
        logit_adjusted(logits, labels, COUNTS, reduction="sum", **options), expected.sum()
    )
    module = LogitAdjustedLoss(torch.tensor(COUNTS), **options)
    torch.testing.assert_close(module(logits, labels), expected.mean())
    torch.testing.assert_close(module.eval()(logits, labels), cross_entropy(logits, labels))


def test_one_hot_mixed_and_dense_targets():
    logits, labels = sample()
    hot = torch.nn.functional.one_hot(labels, 4).double()
    loss = LogitAdjustedLoss(COUNTS)
    torch.testing.assert_close(loss(logits, hot), loss(logits, labels))
    mixed = 0.3 * hot + 0.7 * hot.flip(0)
    torch.testing.assert_close(loss(logits, mixed), 0.3 * loss(logits, hot) + 0.7 * loss(logits, hot.flip(0)))
    maps, pixels = logits.T.reshape(1, 4, 3, 3), labels.reshape(1, 3, 3)
    torch.testing.assert_close(loss(maps, pixels), loss(logits, labels))
    torch.testing.assert_close(adjust_logits(maps, COUNTS).flatten(2)[0].T, adjust_logits(logits, COUNTS))


def test_label_smoothing_is_that_of_torch_on_the_adjusted_logits():
    logits, labels = sample()
    expected = cross_entropy(logits + log_prior(COUNTS), labels, label_smoothing=0.1)
    torch.testing.assert_close(logit_adjusted(logits, labels, COUNTS, label_smoothing=0.1), expected)


def test_equal_counts_and_tau_zero_are_plain_cross_entropy():
    logits, labels = sample()
    torch.testing.assert_close(
        logit_adjusted(logits, labels, [8] * 4, tau=3.0), cross_entropy(logits, labels)
    )
    torch.testing.assert_close(logit_adjusted(logits, labels, COUNTS, tau=0.0), cross_entropy(logits, labels))
    torch.testing.assert_close(adjust_logits(logits, COUNTS, tau=0.0), logits)


def test_its_minimum_predicts_as_if_classes_were_balanced():
    # One feature, two classes 9 : 1, equally likely in a balanced world: logits must tie.
    labels = torch.tensor([0] * 9 + [1])
    tie = torch.zeros(10, 2, dtype=torch.float64, requires_grad=True)
    logit_adjusted(tie, labels, [9, 1]).backward()
    torch.testing.assert_close(tie.grad.sum(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15)
    plain = torch.tensor([9.0, 1.0]).log().double()  # where plain cross-entropy is stationary
    adjusted = adjust_logits(plain[None], [9, 1])[0]
    torch.testing.assert_close(adjusted[0], adjusted[1])


def test_gradcheck():
    logits, labels = sample()
    assert torch.autograd.gradcheck(lambda z: logit_adjusted(z, labels, COUNTS), (logits.requires_grad_(),))


def test_the_streamed_loss_takes_the_same_adjustment():
    head = ETFHead(16, 4, neck=None, fused=True)
    h, labels = torch.randn(9, 16), sample()[1]
    streamed = FrameCrossEntropyLoss(head, logit_adjustment=log_prior(COUNTS).float())
    scale, factors = head.logit_factors()
    logits = scale * head.frame.apply(h, factors)
    torch.testing.assert_close(streamed(head(h), labels), logit_adjusted(logits, labels, COUNTS))


@pytest.mark.parametrize("head", [ETFHead(16, 4), CosineHead(16, 4)], ids=["fixed", "learnable"])
def test_fixed_and_learnable_heads_alike(head):
    h = torch.randn(9, 16, requires_grad=True)
    LogitAdjustedLoss(COUNTS)(head(h), sample()[1]).backward()
    assert h.grad.isfinite().all()
    assert head.scale.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_finite_and_float32(dtype):
    logits = torch.tensor([[3e4, -3e4, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = logit_adjusted(logits, torch.tensor([1]), COUNTS)
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_the_adjustment_moves_with_the_module_and_stays_out_of_the_state_dict():
    loss = LogitAdjustedLoss(COUNTS).float()
    assert loss.adjustment.dtype == torch.float32
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    assert "tau=1.0" in repr(loss)


ZEROS, LABELS = torch.zeros(2, 4), torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("logits", "target", "counts", "options", "message"),
    [
        (ZEROS, LABELS, [1, 2, 3, 0], {}, "class_counts=.*positive integers.*leave out classes without"),
        (ZEROS, LABELS, [1, 2, 3], {}, "class_counts: expected 4 numbers, one per class, got 3"),
        (ZEROS, LABELS, COUNTS, {"tau": -1.0}, "tau=-1.0: expected a number >= 0"),
        (ZEROS, LABELS, COUNTS, {"tau": math.nan}, "tau=nan"),
        (ZEROS, LABELS, COUNTS, {"reduction": "avg"}, "reduction='avg'"),
        (ZEROS, LABELS, COUNTS, {"label_smoothing": 2.0}, "label_smoothing=2.0"),
        (ZEROS, LABELS[:1], COUNTS, {}, r"target: expected classes of shape \(2,\), got \(1,\)"),
        (ZEROS, torch.zeros(2), COUNTS, {}, r"target: expected class weights of shape \(2, 4\)"),
        (ZEROS.long(), LABELS, COUNTS, {}, "logits: expected floats"),
        (ZEROS[0], LABELS, COUNTS, {}, "logits: expected floats"),
    ],
)
def test_bad_input(logits, target, counts, options, message):
    with pytest.raises(ValueError, match=message):
        logit_adjusted(logits, target, counts, **options)
