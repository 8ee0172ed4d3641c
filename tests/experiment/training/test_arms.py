import dataclasses
import inspect
import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from etfhead.errors import CheckpointError
from etfhead.experiment.arm_checks import HEAD_OPTIONS
from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.arms import (
    _OF_THE_START,
    build_loss,
    build_mixup,
    build_model,
    resolve_arms,
)
from etfhead.experiment.training.class_losses import LossFacts
from etfhead.surgery import find_classifiers, find_heads
from etfhead.surgery.head_factory import HEADS

DOT = Arm(head="etf", loss="dot_regression", normalize=True, scale=1, learn_scale=False)
ARMS = {
    "linear": Arm(),
    "linear behind a neck": Arm(neck="batchnorm"),
    "cosine": Arm(head="cosine"),
    "etf haar": Arm(head="etf", basis="haar"),
    "etf identity": Arm(head="etf", basis="identity", neck="none"),
    "dot regression": DOT,
}

STOCK = torch.nn.Linear(1, 4)  # a loss on logits does not look at the model
FACTS = LossFacts.stand_in(4)


def trunk(model):
    heads = tuple(f"{name}." for name in (find_heads(model) or find_classifiers(model)))
    return {name: value for name, value in model.state_dict().items() if not name.startswith(heads)}


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_trunks_are_paired_bit_for_bit(recipe, name):
    recipe = replace(recipe, model=name)
    trunks = []
    for arm in ARMS.values():
        torch.manual_seed(torch.seed())  # whatever happened before the call has no influence
        trunks.append(trunk(build_model(recipe, arm, 4, seed=7)))
    assert len(trunks[0]) > 20
    for other in trunks[1:]:
        assert other.keys() == trunks[0].keys()
        assert all(torch.equal(other[key], trunks[0][key]) for key in other)
    another = trunk(build_model(recipe, ARMS["linear"], 4, seed=8))
    assert not all(torch.equal(another[key], trunks[0][key]) for key in another)


def test_options_reach_the_head(recipe):
    (plain,) = find_heads(build_model(recipe, Arm(head="etf"), 4, seed=0)).values()
    assert plain.neck is not None
    assert plain.scale.requires_grad
    arm = Arm(head="etf", basis="identity", neck="none", normalize=True, scale=5.0, learn_scale=False)
    (head,) = find_heads(build_model(recipe, arm, 4, seed=0)).values()
    assert (head.neck, head.normalize, head.scale.item(), head.scale.requires_grad) == (
        None,
        True,
        5.0,
        False,
    )
    assert "identity" in str(head.frame)
    (smooth,) = find_heads(build_model(replace(recipe, smoothing=0.3), Arm(head="etf"), 4, seed=0)).values()
    assert smooth.scale.item() < plain.scale.item(), "scale: auto follows the recipe's smoothing"
    assert find_heads(build_model(recipe, Arm(neck="none"), 4, seed=0)) == {}
    assert len(find_heads(build_model(recipe, Arm(neck="batchnorm"), 4, seed=0))) == 1


def test_the_frame_follows_the_seed(recipe):
    frames = [
        next(iter(find_heads(build_model(recipe, Arm(head="etf"), 4, seed=seed)).values())).class_vectors()
        for seed in (0, 0, 1)
    ]
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])


def test_image_size_reaches_models_that_need_it(recipe):
    model = build_model(replace(recipe, model="test_vit", img_size=48), Arm(), 4, seed=0).eval()
    assert model(torch.zeros(1, 1, 48, 48)).shape == (1, 4)


def test_model_errors_name_the_field(recipe):
    with pytest.raises(ValueError, match=r"model: timm has no 'resnet18x' \(did you mean 'resnet18'\?\)"):
        build_model(replace(recipe, model="resnet18x"), Arm(), 4, seed=0)
    with pytest.raises(ValueError, match=r"model: timm cannot build .*patch_sizes"):
        build_model(replace(recipe, model="test_vit", model_kwargs={"patch_sizes": 4}), Arm(), 4, seed=0)
    with pytest.raises(ValueError, match="in_features"):
        build_model(recipe, Arm(head="etf", frame="simplex"), 2000, seed=0)


def test_losses_against_their_formulas(recipe):
    torch.manual_seed(0)
    logits, target = torch.randn(6, 4), torch.randint(4, (6,))
    plain = replace(recipe, mixup=0.0, cutmix=0.0)
    log_p = logits.log_softmax(1)
    soft = 0.9 * F.one_hot(target, 4) + 0.1 / 4
    torch.testing.assert_close(
        build_loss(plain, Arm(), STOCK, FACTS)(logits, target), -(soft * log_p).sum(1).mean()
    )
    weights = torch.rand(6, 4).softmax(1)
    torch.testing.assert_close(
        build_loss(recipe, Arm(), STOCK, FACTS)(logits, weights), -(weights * log_p).sum(1).mean()
    )
    true = logits[range(6), target]
    expected = 0.5 * (true / 2.0 - 1).square().mean()
    scaled = build_loss(plain, DOT, STOCK, FACTS)
    scaled.target_logit = 2.0
    torch.testing.assert_close(scaled(logits, target), expected)
    assert build_loss(plain, DOT, STOCK, FACTS).target_logit == 1.0
    assert build_loss(plain, replace(DOT, class_balanced=True), STOCK, FACTS).class_balanced is True


def test_mixup_smooths_targets_for_cross_entropy_alone(recipe):
    images, target = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    off = replace(recipe, mixup=0.0, cutmix=0.0)
    assert build_mixup(off, Arm(), 4) is None
    for arm, smoothing in ((Arm(), 0.1), (DOT, 0.0)):
        mixup = build_mixup(recipe, arm, 4)
        mixup.mixup_enabled = False
        _, soft = mixup(images.clone(), target)
        torch.testing.assert_close(soft, (1 - smoothing) * F.one_hot(target, 4) + smoothing / 4)


def initial(recipe, path):
    return replace(recipe, initial_checkpoint=str(path))


def test_initial_checkpoint_fills_the_trunk(recipe, tmp_path, caplog):
    trained = build_model(recipe, Arm(), 10, seed=3)  # another width
    for path, save in ((tmp_path / "a.safetensors", save_file), (tmp_path / "b.pt", torch.save)):
        save(trained.state_dict(), path)
        for arm in ARMS.values():
            model = build_model(initial(recipe, path), arm, 4, seed=0)
            want = trunk(trained)
            assert all(torch.equal(value, want[name]) for name, value in trunk(model).items())
    assert "left the classifier" in caplog.text
    same = build_model(recipe, Arm(), 4, seed=3)
    save_file(same.state_dict(), tmp_path / "same.safetensors")
    loaded = build_model(initial(recipe, tmp_path / "same.safetensors"), Arm(), 4, seed=0)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_initial_checkpoint_of_a_swapped_model_fills_the_trunk_alone(recipe, tmp_path):
    trained = build_model(recipe, Arm(head="etf"), 4, seed=3)
    save_file(trained.state_dict(), tmp_path / "etf.safetensors")
    model = build_model(initial(recipe, tmp_path / "etf.safetensors"), Arm(), 4, seed=0)
    assert all(torch.equal(value, trunk(trained)[name]) for name, value in trunk(model).items())


def test_initial_checkpoints_that_are_refused(recipe, tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        build_model(initial(recipe, tmp_path / "none.pt"), Arm(), 4, seed=0)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"cannot read .*text\.pt"):
        build_model(initial(recipe, tmp_path / "text.pt"), Arm(), 4, seed=0)
    other = build_model(replace(recipe, model="test_vit"), Arm(), 4, seed=0)
    save_file(other.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(CheckpointError, match=r"not of this model \(.* missing: .*unexpected: "):
        build_model(initial(recipe, tmp_path / "vit.safetensors"), Arm(), 4, seed=0)
    rgb = build_model(replace(recipe, in_chans=3), Arm(), 4, seed=0)
    save_file(rgb.state_dict(), tmp_path / "rgb.safetensors")
    with pytest.raises(CheckpointError, match=r"conv_stem.weight is \(\d+, 3, 3, 3\) there"):
        build_model(initial(recipe, tmp_path / "rgb.safetensors"), Arm(), 4, seed=0)


def test_code_in_an_initial_checkpoint_is_never_executed(recipe, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"state_dict": Harm()}, tmp_path / "harm.pt")
    with pytest.raises(CheckpointError, match=r"cannot read .*harm\.pt.*which is not opened"):
        build_model(initial(recipe, tmp_path / "harm.pt"), Arm(), 4, seed=0)
    assert not (tmp_path / "harm").exists()


def test_every_option_of_an_arm_is_used():
    """A new field of Arm belongs to a head's options, or must be wired here or in the loss."""
    ours = {"head", "loss", "loss_options", "class_balanced", "pal_normalize", "decode", *_OF_THE_START}
    ours |= {"frame_options", "tail_decay", "posthoc", "reweight_from", "reweight_beta"}
    fields = {field.name for field in dataclasses.fields(Arm)}
    assert fields == ours | {option for options in HEAD_OPTIONS.values() for option in options}
    for head, options in HEAD_OPTIONS.items():
        for kind in HEADS[head]:
            known = inspect.signature(kind).parameters
            assert set(options) - set(_OF_THE_START) <= known.keys()


def test_resolved_arms_say_every_default_and_build_the_same_model(recipe):
    open_arms = {"stock": Arm(), "etf": Arm(head="etf"), "cosine": Arm(head="cosine")}
    recipe = dataclasses.replace(recipe, arms=open_arms, baseline="stock")
    resolved = resolve_arms(recipe)
    assert resolved.arms["etf"].basis == "hadamard"
    assert resolved.arms["etf"].neck == "batchnorm"
    assert resolved.arms["cosine"].neck == resolved.arms["stock"].neck == "none"
    assert resolved.arms["stock"].basis is None
    assert resolve_arms(resolved) == resolved
    for name in open_arms:
        ours, theirs = (build_model(r, r.arms[name], 4, seed=0).state_dict() for r in (recipe, resolved))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sched": "step", "decay_epochs": 2}, [1, 1, 0.1, 0.1, 0.01]),
        ({"sched": "step", "decay_epochs": 2, "decay_rate": 0.5}, [1, 1, 0.5, 0.5, 0.25]),
        ({"sched": "multistep", "decay_milestones": (1, 4)}, [1, 0.1, 0.1, 0.1, 0.01]),
        ({"sched": "none"}, [1, 1, 1, 1, 1]),
    ],
)
def test_learning_rate_at_the_start_of_each_epoch(recipe, options, expected):
    from etfhead.experiment.training.optimization import build_optimizer, build_scheduler

    recipe = dataclasses.replace(recipe, epochs=5, warmup_epochs=0, min_lr=0.0, lr=0.1, **options)
    optimizer = build_optimizer(recipe, torch.nn.Linear(2, 2))
    scheduler = build_scheduler(recipe, optimizer, steps_per_epoch=3)
    rates = []
    for update in range(15):
        if update % 3 == 0:
            rates.append(optimizer.param_groups[0]["lr"] / recipe.lr)
        if scheduler is not None:
            scheduler.step_update(update + 1)
    assert rates == pytest.approx(expected)


def test_weights_that_cannot_be_fetched_name_the_key_and_a_way_out(recipe, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("An error happened") from ConnectionError("Connection refused")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(ValueError) as told:  # noqa: PT011 - the whole message is compared
        build_model(replace(recipe, model="resnet18", pretrained=True), Arm(), 4, seed=0)
    assert str(told.value) == (
        "pretrained: the weights of 'resnet18' could not be fetched (Connection refused); go online, or give "
        "initial_checkpoint=FILE pretrained=false"
    )
