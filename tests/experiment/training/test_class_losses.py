import inspect

import pytest
import torch
from torch import nn

import etfhead.losses
from etfhead.experiment.loss_names import CLASS_LOSSES
from etfhead.experiment.training.class_losses import LossFacts, build_class_loss

NEEDS_NO_TABLE = ("cross_entropy", "dot_regression")
FACTS = LossFacts(3, (5, 4, 1), 10, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]))


@pytest.mark.parametrize("name", [name for name in CLASS_LOSSES if name not in NEEDS_NO_TABLE])
def test_every_name_builds_and_gives_one_finite_number(name):
    loss = build_class_loss(name, {}, FACTS)
    logits = torch.tensor([[0.5, -0.3, 0.1], [0.0, 0.9, -0.7], [0.2, 0.2, 0.3]], requires_grad=True)
    target = torch.tensor([0, 1, 1])
    index = (torch.tensor([0, 3, 9]),) if "index" in inspect.signature(loss.forward).parameters else ()
    value = loss(logits, target, *index)
    value.backward()
    assert value.shape == ()
    assert value.isfinite()
    assert logits.grad.abs().sum() > 0


def test_every_loss_module_of_classes_has_a_name():
    of_sets_and_frames = {"FrameCrossEntropyLoss", "PickAllLabelLoss", "DotRegressionLoss"}
    modules = {name for name in etfhead.losses.__all__ if name.endswith("Loss")} - of_sets_and_frames
    built = {
        type(build_class_loss(name, {}, FACTS)).__name__
        for name in CLASS_LOSSES
        if name not in NEEDS_NO_TABLE
    }
    assert built >= modules


def test_options_reach_the_loss_and_data_fill_the_rest():
    assert build_class_loss("generalized_cross_entropy", {"q": 0.25}, FACTS).q == 0.25
    assert build_class_loss("early_learning", {"momentum": 0.9}, FACTS).memory.shape == (10, 3)
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    given = build_class_loss("forward_correction", {"transition": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}, FACTS)
    torch.testing.assert_close(given(logits, target), nn.functional.cross_entropy(logits, target))
    shifted = logits + torch.tensor([0.5, 0.4, 0.1]).log()
    adjusted = build_class_loss("logit_adjusted", {}, FACTS)
    torch.testing.assert_close(adjusted(logits, target), nn.functional.cross_entropy(shifted, target))
    smooth = build_class_loss("logit_adjusted", {}, FACTS, label_smoothing=0.2)
    expected = nn.functional.cross_entropy(shifted, target, label_smoothing=0.2)
    torch.testing.assert_close(smooth(logits, target), expected)


def test_losses_of_losses():
    options = {
        "active": {"loss": "normalized_cross_entropy", "gamma": 0.5},
        "passive": "mean_absolute_error",
        "beta": 2.0,
    }
    both = build_class_loss("active_passive", options, FACTS)
    active = build_class_loss("normalized_cross_entropy", {"gamma": 0.5}, FACTS)
    passive = build_class_loss("mean_absolute_error", {}, FACTS)
    logits, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 0])
    expected = active(logits, target) + 2.0 * passive(logits, target)
    torch.testing.assert_close(both(logits, target), expected)
    clipped = build_class_loss("logit_clip", {"loss": "cross_entropy", "max_norm": 1e6}, FACTS)
    expected = nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(clipped(logits, target), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("generalised_cross_entropy", {}, "expected a loss of one class an image"),
        ("generalized_cross_entropy", {"p": 0.5}, "no option 'p'.*it has q"),
        ("generalized_cross_entropy", {"reduction": "sum"}, "no option 'reduction'"),
        ("generalized_cross_entropy", {"q": -1.0}, "q"),
        ("forward_correction", {"transition": "no"}, "expected rows of numbers"),
        ("active_passive", {"active": {"q": 1}}, "expected a loss of one class an image"),
        ("early_learning", {"num_samples": 5}, "no option 'num_samples'"),  # the data decide
        ("logit_clip", {"loss": "early_learning"}, "loss: early_learning remembers each image"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_class_loss(name, options, FACTS)


def test_a_correction_needs_a_matrix():
    with pytest.raises(ValueError, match=r"needs a transition matrix.*loss_options"):
        build_class_loss("forward_correction", {}, LossFacts(3, (1, 1, 1), 3))
