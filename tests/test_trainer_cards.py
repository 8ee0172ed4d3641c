"""Trainers hand targets to losses in two ways; each loss takes both or says why not."""

import pytest
import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy

import etfhead
from etfhead import losses

CRITERIA = {
    "etf_dot": losses.ETFDotLoss,
    "dot_regression": losses.DotRegressionLoss,
    "label_smoothing": losses.LabelSmoothingCrossEntropyLoss,
    "bi_tempered": losses.BiTemperedLoss,
    "generalized_cross_entropy": losses.GeneralizedCrossEntropyLoss,
    "symmetric_cross_entropy": losses.SymmetricCrossEntropyLoss,
    "active_passive": losses.ActivePassiveLoss,
    "jensen_shannon": losses.JensenShannonLoss,
    "squared_error": losses.SquaredErrorLoss,
    "logit_adjusted": lambda: losses.LogitAdjustedLoss([3, 3, 2, 2]),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_takes_classes_and_mixed_targets(name):
    """As timm's trainer hands them over: integers, or what mixup and cutmix make of them."""
    criterion = CRITERIA[name]()
    torch.manual_seed(0)
    logits = torch.randn(8, 4, requires_grad=True)
    target = torch.arange(8) % 4
    hot = torch.nn.functional.one_hot(target, 4).float()
    torch.testing.assert_close(criterion(logits, target), criterion(logits, hot))
    _, mixed = Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, num_classes=4)(torch.rand(8, 3, 8, 8), target)
    assert ((mixed > 0).sum(1) > 1).any()
    (gradient,) = torch.autograd.grad(criterion(logits, mixed), logits)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_timms_soft_loss_is_cross_entropy_on_a_fixed_head():
    model = etfhead.swap_head(timm.create_model("test_resnet", num_classes=4))
    logits, soft = model(torch.randn(8, 3, 32, 32)), torch.rand(8, 4).softmax(1)
    expected = torch.nn.functional.cross_entropy(logits, soft)
    torch.testing.assert_close(SoftTargetCrossEntropy()(logits, soft), expected)


@pytest.mark.parametrize("loss", [losses.LDAMLoss([3, 3, 2]), losses.NTCELoss(), losses.NONLLoss()])
def test_margins_of_one_class_refuse_mixed_targets(loss):
    with pytest.raises(ValueError, match="target: expected integer classes"):
        loss(torch.randn(2, 3), torch.full((2, 3), 1 / 3))
