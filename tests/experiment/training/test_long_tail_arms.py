"""Arms that know class counts: what they train with, and that nothing else is weighed."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from etfhead.experiment.arm import Arm
from etfhead.experiment.models import etfhead_mlp
from etfhead.experiment.training.arms import build_loss, build_model
from etfhead.experiment.training.class_losses import _MODULES, LossFacts, build_class_loss
from etfhead.experiment.training.long_tail_arms import counted_frame, loss_options, posthoc_labels
from etfhead.experiment.training.reweighted import ReweightedLoss
from etfhead.frames import make_frame
from etfhead.losses import effective_number_weights, log_prior

COUNTS = (90, 30, 9, 3)
FACTS = LossFacts(num_classes=4, class_counts=COUNTS, num_samples=132)


@pytest.fixture
def model():
    return etfhead_mlp(num_classes=4, img_size=4, widths=[16])


@pytest.mark.parametrize("frame", ["orthogonal", "imbalanced_ce", "seli"])
def test_a_counted_frame_is_that_of_the_training_counts(frame, model):
    options = counted_frame(Arm(head="etf", frame=frame), model, 4, COUNTS, seed=3)
    assert options == {"frame": frame, "class_counts": list(COUNTS)}
    assert counted_frame(Arm(head="etf", frame=frame), model, 4, None, seed=3)["class_counts"] == [1] * 4
    assert counted_frame(Arm(head="etf"), model, 4, COUNTS, seed=3) == {}


def test_frame_options_build_the_frame_with_decays(model):
    decays = {"weight_decay": 1e-3, "feature_decay": 1e-4}
    arm = Arm(head="etf", frame="orthogonal", basis="haar", frame_options=decays)
    found = counted_frame(arm, model, 4, COUNTS, seed=3)["frame"]
    sizes = {"num_classes": 4, "in_features": 16}
    assert found == make_frame("orthogonal", class_counts=COUNTS, basis="haar", seed=3, **sizes, **decays)
    with pytest.raises(ValueError, match="frame_options: frame: seli has no option 'bias'"):
        counted_frame(Arm(head="etf", frame="seli", frame_options={"bias": True}), model, 4, COUNTS, 0)


def test_the_model_of_an_arm_holds_its_frame(recipe):
    arm = Arm(head="etf", frame="seli")
    small = replace(recipe, model="etfhead_mlp", model_kwargs={"widths": [16]}, drop_path=0.0, img_size=4)
    built = build_model(small, arm, 4, 0, class_counts=COUNTS)
    assert built.get_classifier().frame.class_counts == COUNTS


def built(recipe, arm, facts=FACTS):
    plain = replace(recipe, mixup=0.0, cutmix=0.0, smoothing=0.0, drop_path=0.0)
    small = replace(plain, model="etfhead_mlp", model_kwargs={"widths": [16]}, img_size=4)
    return build_loss(small, arm, build_model(small, arm, 4, 0, class_counts=COUNTS), facts)


COSINES = {"head": "cosine", "scale": 10.0, "learn_scale": False}
ON_ETF = {"head": "etf", "normalize": True, "scale": 1.0, "learn_scale": False}
PLAIN = {
    "cross_entropy": Arm(),
    "logit_adjusted": Arm(loss="logit_adjusted", loss_options={"tau": 1.5}),
    "balanced_softmax": Arm(loss="balanced_softmax"),
    "ldam": Arm(loss="ldam", **COSINES),
    "mse": Arm(loss="mse"),
    "dot_regression": Arm(loss="dot_regression", **ON_ETF),
}
WEIGHTED = {
    "cross_entropy, weighed": Arm(reweight_from=0.0),
    "logit_adjusted, weighed": Arm(loss="logit_adjusted", reweight_from=0.0, reweight_beta=1.0),
    "dot_regression, class-balanced": Arm(loss="dot_regression", class_balanced=True, **ON_ETF),
}


def pull_of_one_sample(criterion, others):
    """Largest gradient entry of the last sample's logits, beside 7 samples of other classes."""
    logits = torch.zeros(8, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(criterion(logits, torch.tensor([*others, 3])), logits)
    return gradient[-1]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_loss_weighs_a_sample_alike_among_any_others(name, recipe):
    criterion = built(recipe, PLAIN[name]).train()
    among_rare = pull_of_one_sample(criterion, [3] * 7)
    among_frequent = pull_of_one_sample(criterion, [0] * 7)
    torch.testing.assert_close(among_rare, among_frequent)


@pytest.mark.parametrize("name", WEIGHTED)
def test_open_weights_are_noticed(name, recipe):
    criterion = built(recipe, WEIGHTED[name]).train()
    among_rare = pull_of_one_sample(criterion, [3] * 7)
    among_frequent = pull_of_one_sample(criterion, [0] * 7)
    assert (among_rare - among_frequent).abs().max() > 1e-3


# Terms over the batch, and losses that remember each image: what a sample adds depends on more than itself.
NOT_OF_ONE_SAMPLE = ("ntce", "nonl", "early_learning", "sparse_overparametrization")
OF_ONE_SAMPLE = sorted(set(_MODULES) - set(NOT_OF_ONE_SAMPLE))
OF_COUNTS = ("logit_adjusted", "balanced_softmax", "ldam")
OF_OTHERS = {"active_passive": {"active": "normalized_cross_entropy", "passive": "mean_absolute_error"}}


def by_name(name):
    K = len(COUNTS)
    flips = torch.full((K, K), 0.1, dtype=torch.float64).fill_diagonal_(1.0 - 0.1 * (K - 1))
    return build_class_loss(name, OF_OTHERS.get(name, {}), replace(FACTS, transition=flips)).train()


def unequal_batch():
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return logits, torch.tensor([0] * 7 + [1] * 3 + [2, 3])


@pytest.mark.parametrize("name", OF_ONE_SAMPLE)
def test_every_loss_by_name_is_the_mean_of_its_samples_alone(name):
    logits, target = unequal_batch()
    criterion = by_name(name)
    alone = torch.stack([criterion(logits[i : i + 1], target[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(criterion(logits, target), alone.mean())


@pytest.mark.parametrize("name", sorted({*OF_ONE_SAMPLE, "ntce", "nonl"} - set(OF_COUNTS)))
def test_every_loss_that_needs_no_counts_treats_classes_as_names(name):
    logits, target = unequal_batch()
    criterion, order = by_name(name), torch.tensor([3, 0, 2, 1])
    renamed = criterion(logits[:, order], order.argsort()[target])
    torch.testing.assert_close(renamed, criterion(logits, target))


@pytest.mark.parametrize("name", OF_COUNTS)
def test_counts_move_logits_and_weigh_no_sample(name):
    logits, target = unequal_batch()
    moved = logits.clone()
    if name == "ldam":
        margins = 0.5 * (torch.tensor(COUNTS, dtype=torch.float64) / min(COUNTS)) ** -0.25
        moved[torch.arange(12), target] += margins[target]
    else:
        moved -= log_prior(COUNTS)
    for k in range(4):  # class by class: equal weights of all would hide in a mean
        mine = target == k
        expected = nn.functional.cross_entropy(logits[mine], target[mine])
        torch.testing.assert_close(by_name(name)(moved[mine], target[mine]), expected)


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "dot_regression"])
def test_losses_without_counts_treat_classes_as_names(name, recipe):
    criterion = built(recipe, PLAIN[name]).train()
    logits = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(criterion(logits, torch.arange(4)), logits)
    order = torch.tensor([3, 0, 2, 1])
    torch.testing.assert_close(gradient[order][:, order], gradient)


def test_deferred_weights_begin_with_their_epoch(recipe):
    criterion = built(recipe, Arm(loss="ldam", reweight_from=0.5, reweight_beta=0.9, **COSINES))
    assert isinstance(criterion, ReweightedLoss)
    torch.testing.assert_close(criterion.weight, effective_number_weights(COUNTS, beta=0.9))
    criterion.begin_epoch(4, 10)
    assert not criterion.active
    criterion.begin_epoch(5, 10)
    assert criterion.active


def test_the_epoch_of_deferred_weights_is_not_moved_by_rounding(recipe):
    criterion = built(recipe, Arm(reweight_from=0.28))
    active = []
    for epoch in range(25):
        criterion.begin_epoch(epoch, 25)
        active.append(criterion.active)
    assert active == [False] * 7 + [True] * 18


def test_ldam_has_no_weights_beside_the_open_ones(recipe):
    with pytest.raises(ValueError, match="ldam has no option 'weight'"):
        built(recipe, Arm(loss="ldam", loss_options={"weight": [1.0] * 4}, **COSINES))


def test_ldam_takes_the_scale_of_the_head(recipe):
    small = replace(recipe, model="etfhead_mlp", model_kwargs={"widths": [16]}, drop_path=0.0, img_size=4)
    arm = Arm(head="cosine", loss="ldam", scale=7.0)
    model = build_model(small, arm, 4, 0)
    assert loss_options(arm, model)["scale"] is model.get_classifier().scale


def test_balanced_softmax_is_logit_adjustment_of_strength_one(recipe):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 3, 0, 0])
    expected = nn.functional.cross_entropy(logits + log_prior(COUNTS).float(), target)
    torch.testing.assert_close(built(recipe, Arm(loss="balanced_softmax")).train()(logits, target), expected)
    with pytest.raises(ValueError, match="balanced_softmax has no option 'tau'"):
        built(recipe, Arm(loss="balanced_softmax", loss_options={"tau": 2.0}))


def test_a_weights_file_says_what_to_subtract():
    labels = posthoc_labels(Arm(posthoc=1.5), COUNTS)
    shift = torch.tensor(json.loads(labels["subtract_from_logits"]), dtype=torch.float64)
    torch.testing.assert_close(shift, log_prior(COUNTS, tau=1.5), atol=1e-6, rtol=0)
    assert posthoc_labels(Arm(), COUNTS) == posthoc_labels(Arm(posthoc=0.0), COUNTS) == {}


@pytest.mark.parametrize(
    ("options", "field", "names"),
    [
        ({"frame_options": {"bias": True}}, "frame_options", "belong to frame: orthogonal"),
        (
            {"head": "etf", "loss": "ntce", "normalize": True, "scale": 10.0},
            "learn_scale",
            "learn_scale: false",
        ),
        ({"loss": "ldam"}, "head", "compares cosines"),
        ({"head": "etf", "loss": "nonl"}, "head", "normalize: true"),
        ({**COSINES, "loss": "nonl", "scale": "auto"}, "scale", "a number"),
        ({"loss": "mse", "reweight_from": 0.5}, "reweight_from", "only with loss: cross_entropy"),
        ({"reweight_beta": 0.9}, "reweight_beta", "no effect without reweight_from"),
        ({"reweight_from": 1.0}, "reweight_from", "< 1"),
        ({"loss": "balanced_softmax", "posthoc": 1.0}, "posthoc", "adjusted in training already"),
        ({"head": "etf", "fused": True, "posthoc": 1.0}, "posthoc", "not with fused: true"),
        ({"posthoc": -1.0}, "posthoc", ">= 0"),
        ({"loss": "pick_all_label", "posthoc": 1.0}, "posthoc", "has several"),
        ({"head": "etf", "frame": "seli", "orient": "features"}, "orient", "in place of frame: seli"),
        ({"head": "cosine", "tail_decay": {}}, "tail_decay", "head: linear without a neck"),
    ],
)
def test_refuses_what_an_arm_would_ignore(options, field, names):
    with pytest.raises(ValueError, match=names) as error:
        Arm(**options)
    assert error.value.path == (field,)
