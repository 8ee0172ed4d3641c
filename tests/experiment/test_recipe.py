"""Ranges and cross-field rules of recipes and arms, however they are built."""

import dataclasses

import pytest

from etfhead.experiment.recipe import Arm, Recipe

MINIMAL = {
    "name": "tiny",
    "model": "test_resnet",
    "img_size": 32,
    "dataset": "digits",
    "epochs": 2,
    "arms": {"learnable": Arm(), "etf": Arm(head="etf")},
    "baseline": "learnable",
}


def make(**changes):
    return Recipe(**{**MINIMAL, **changes})


def test_defaults_are_valid_and_frozen():
    recipe = make()
    assert recipe.seeds == (0, 1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 3


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("epochs", 1, 0),
        ("img_size", 1, 0),
        ("batch_size", 2, 1),
        ("lr", 1e-9, 0.0),
        ("lr", 100.0, float("nan")),
        ("lr", 100.0, float("inf")),
        ("weight_decay", 0.0, -0.1),
        ("momentum", 0.0, 1.0),
        ("smoothing", 0.999, 1.0),
        ("smoothing", 0.0, -0.1),
        ("val_fraction", 0.01, 0.0),
        ("val_fraction", 0.99, 1.0),
        ("drop", 0.9, 1.0),
        ("drop_path", 0.9, 1.0),
        ("hflip", 1.0, 1.1),
        ("crop_pct", 1.0, 0.0),
        ("crop_pct", 1.0, 1.01),
        ("model_ema_decay", 0.5, 1.0),
        ("clip_grad", 1.0, 0.0),
        ("train_limit", 1, 0),
        ("target_accuracy", 100.0, 101.0),
        ("in_chans", 1, 2),
        ("workers", 0, -1),
        ("seeds", (0, 2**32 - 1), (0, 2**32)),
        ("seeds", (5,), (-1,)),
        ("seeds", (5,), ()),
        ("seeds", (5, 6), (5, 5)),
        ("std", (0.5, 0.5, 0.5), (0.5, 0.5, 0.0)),
        ("name", "a.b-c_1", "a/b"),
        ("name", "a", ".hidden"),
        ("name", "a", ""),
    ],
)
def test_limits_of_one_field(key, good, bad):
    partner = {"mean": (0.5, 0.5, 0.5)} if key == "std" else {}
    assert getattr(make(**{key: good}, **partner), key) == good
    with pytest.raises(ValueError, match=rf"^{key}: ") as caught:
        make(**{key: bad}, **partner)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "key", "mends"),
    [
        ({"baseline": "cosine"}, "baseline", {"baseline": "etf"}),
        ({"arms": {}}, "arms", {"arms": {"learnable": Arm()}}),
        ({"mean": (0.5,)}, "mean", {"in_chans": 1, "std": (0.5,)}),
        ({"mean": (0.5,) * 3}, "std", {"std": (0.5,) * 3}),
        ({"std": (0.5,) * 3}, "mean", {"mean": (0.5,) * 3}),
        ({"scale": (0.9, 0.1)}, "scale", {"scale": (0.1, 0.9)}),
        ({"ratio": (2.0, 1.0)}, "ratio", {"ratio": (1.0, 2.0)}),
        ({"aa": "rand-m9"}, "aa", {"no_aug": False}),
        ({"crop_padding": 4}, "crop_padding", {"no_aug": False}),
        ({"color_jitter": 0.4}, "color_jitter", {"no_aug": False}),
        ({"reprob": 0.2}, "reprob", {"no_aug": False}),
        ({"vflip": 0.5}, "vflip", {"no_aug": False}),
        ({"data_root": "images"}, "data_root", {"dataset": "cifar10"}),
        ({"download": True}, "download", {"dataset": "cifar10"}),
        ({"dataset": "npz", "data_root": "x.npz", "download": True}, "download", {"download": False}),
        ({"pretrained": True, "initial_checkpoint": "w.pt"}, "initial_checkpoint", {"pretrained": False}),
        ({"warmup_epochs": 2}, "warmup_epochs", {"epochs": 3}),
        ({"min_lr": 0.1}, "min_lr", {"lr": 0.2}),
        ({"mixup": 0.2, "batch_size": 15}, "batch_size", {"batch_size": 16}),
        ({"cutmix": 1.0, "batch_size": 15}, "batch_size", {"cutmix": 0.0}),
        ({"cpu": True, "amp_dtype": "float16"}, "amp_dtype", {"amp_dtype": "bfloat16"}),
        ({"model_kwargs": {"checkpoint_path": "/x"}}, "model_kwargs", {"model_kwargs": {}}),
        ({"model_kwargs": {"num_classes": 3}}, "model_kwargs", {"model_kwargs": {"patch_size": 4}}),
        ({"sched": "none", "epochs": 4, "warmup_epochs": 1}, "warmup_epochs", {"warmup_epochs": 0}),
        ({"sched": "none", "min_lr": 1e-5}, "min_lr", {"min_lr": 0.0}),
        ({"sched": "step", "epochs": 4}, "decay_epochs", {"decay_epochs": 2}),
        ({"sched": "step", "epochs": 4, "decay_epochs": 4}, "decay_epochs", {"decay_epochs": 3}),
        ({"sched": "multistep", "epochs": 4}, "decay_milestones", {"decay_milestones": (2, 3)}),
        ({"sched": "cosine", "epochs": 4, "decay_epochs": 2}, "decay_epochs", {"decay_epochs": None}),
    ],
)
def test_fields_that_exclude_each_other_and_how_to_mend_them(changes, key, mends):
    with pytest.raises(ValueError, match=rf"^{key}: "):
        make(**changes)
    make(**{**changes, **mends})


@pytest.mark.parametrize("name", ["a b", "a/b", "..", "a.b", "", "-x", "x" * 65])
def test_arm_names_are_folder_names(name):
    with pytest.raises(ValueError, match="names a folder"):
        make(arms={name: Arm()}, baseline=name)


def test_arm_names_that_share_a_folder_on_some_disks():
    with pytest.raises(ValueError, match="only in case"):
        make(arms={"etf": Arm(), "ETF": Arm()}, baseline="etf")


OPTIONS = {
    "frame": "simplex",
    "basis": "haar",
    "neck": "none",
    "normalize": True,
    "scale": 2.0,
    "learn_scale": False,
    "orient": "inputs",
    "low_rank": 2,
    "fused": True,
    "momentum": 0.5,
    "centre": 0.5,
    "repel": 0.1,
    "rate": 0.1,
    "every": 10,
}
SHARED = {"neck", "orient"}
SCALED = {*SHARED, "scale", "learn_scale"}
HAS = {
    "linear": SHARED,
    "cosine": SCALED,
    "etf": {*SCALED, "frame", "basis", "normalize", "low_rank", "fused"},
    "class_mean": {*SCALED, "fused", "momentum", "centre", "repel"},
    "delta": {*SCALED, "fused", "rate"},
    "guided": {*SCALED, "basis", "normalize", "momentum", "every"},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("head", HAS)
def test_an_option_of_another_head_is_an_error(head, option):
    if option in HAS[head]:
        assert getattr(Arm(head=head, **{option: OPTIONS[option]}), option) == OPTIONS[option]
    else:
        with pytest.raises(ValueError, match=rf"^{option}: head: {head} has no such option"):
            Arm(head=head, **{option: OPTIONS[option]})


@pytest.mark.parametrize("head", HAS)
def test_the_exponent_belongs_to_a_start_from_data(head):
    assert Arm(head=head, orient="inputs", exponent=0.5).exponent == 0.5
    with pytest.raises(ValueError, match=r"^exponent: has no effect without orient"):
        Arm(head=head, exponent=0.5)


def test_dot_regression_needs_cosines_with_fixed_vectors_and_a_stated_scale():
    good = {"head": "etf", "normalize": True, "scale": 1.0, "learn_scale": False}
    assert Arm(loss="dot_regression", class_balanced=True, **good).class_balanced
    for option, bad in [("normalize", None), ("normalize", False), ("learn_scale", True), ("scale", "auto")]:
        with pytest.raises(ValueError, match=rf"^{option}: .*so write"):
            Arm(loss="dot_regression", **{**good, option: bad})
    with pytest.raises(ValueError, match="write head: etf"):
        Arm(loss="dot_regression", head="linear")


def test_class_balanced_belongs_to_dot_regression():
    with pytest.raises(ValueError, match="only loss: dot_regression"):
        Arm(class_balanced=False)


def test_scale_of_an_arm_is_positive():
    with pytest.raises(ValueError, match=r"^scale: expected a number > 0, got 0"):
        Arm(head="etf", scale=0)


@pytest.mark.parametrize("kind", [Arm, Recipe])
def test_every_field_has_a_one_line_comment(kind):
    for field in dataclasses.fields(kind):
        text = field.metadata["help"]
        assert text
        assert "\n" not in text
        assert len(text) <= 90
