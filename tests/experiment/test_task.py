"""Which data set has which task, and what a recipe may ask of it."""

import dataclasses

import pytest

from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.schema import dump_recipe, load_recipe, smoke
from etfhead.experiment.task import is_multilabel, primary_metric, stand_in_targets
from etfhead.experiment.training.arms import resolve_arms

BCE = Arm(loss="binary_cross_entropy")
PAL = Arm(head="multilabel_etf", loss="pick_all_label")


def make(arm=BCE, **changes):
    options = {
        "name": "t",
        "model": "test_resnet",
        "img_size": 32,
        "dataset": "multilabel_digits",
        "epochs": 1,
    }
    return Recipe(**{**options, "arms": {"a": arm}, "baseline": "a", **changes})


def test_the_task_follows_from_the_data_set():
    assert is_multilabel("multilabel_npz")
    assert not is_multilabel("npz")
    assert primary_metric(make()) == "exact_match"
    assert primary_metric(make(primary_metric="map")) == "map"
    assert primary_metric(make(dataset="multilabel_npz")) == "map"
    assert primary_metric(make(Arm(), dataset="digits")) == "top1"


def test_stand_in_targets_have_the_tasks_form():
    assert stand_in_targets(make(Arm(), dataset="digits"), 3, 2).tolist() == [0, 1, 0]
    assert stand_in_targets(make(), 3, 2).tolist() == [[1, 0], [0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"loss": "binary_cross_entropy", "pal_normalize": True}, "pal_normalize: only loss: pick_all_label"),
        ({"decode": "nearest"}, "decode: loss: cross_entropy names one class"),
        ({"loss": "zlpr", "decode": "nearest"}, "decode: nearest is the geometry that loss: pick_all_label"),
        ({"head": "multilabel_etf"}, "loss: head: multilabel_etf decodes label sets"),
        ({"head": "linear", "loss": "zlpr", "basis": "haar"}, "basis: head: linear has no such option"),
    ],
)
def test_options_of_the_other_task_are_refused_in_an_arm(arm, message):
    with pytest.raises(ValueError, match=message):
        Arm(**arm)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": Arm()}, "arms.a.loss: cross_entropy knows one class an image"),
        ({"arm": PAL, "dataset": "digits"}, "arms.a.loss: pick_all_label is of multi-label data"),
        ({"arm": Arm(head="class_mean", loss="zlpr")}, "arms.a.head: class_mean follows the features"),
        ({"arm": Arm(loss="zlpr", orient="inputs")}, "arms.a.orient: class means need one class"),
        ({"arm": Arm(head="etf", loss="zlpr", fused=True)}, "arms.a.fused: streams cross-entropy"),
        ({"arm": Arm(loss="zlpr"), "smoothing": 0.1}, "smoothing: loss: zlpr .*has no label smoothing"),
        ({"mixup": 0.2}, "mixup: mixes shares of two classes"),
        ({"cutmix": 0.2}, "cutmix: mixes shares of two classes"),
        ({"primary_metric": "top1"}, "primary_metric: .*several labels an image: write exact_match, map"),
        (
            {"arm": Arm(), "dataset": "digits", "primary_metric": "map"},
            "primary_metric: .*one class an image",
        ),
        ({"data_root": "x"}, "data_root: dataset: multilabel_digits reads no folder"),
        ({"dataset": "multilabel_npz", "download": True}, "download: .*cannot be downloaded"),
        ({"dataset": "multilabel_npz", "train_images_per_set": (1,)}, "train_images_per_set: .*not composed"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_smoothing_is_defined_for_the_losses_that_have_it():
    assert make(smoothing=0.1).smoothing == make(PAL, smoothing=0.1).smoothing == 0.1


def test_open_options_are_resolved():
    arms = {"pal": PAL, "linear": Arm(loss="pick_all_label"), "bce": BCE}
    resolved = resolve_arms(make(arms=arms, baseline="bce"))
    assert resolved.collapse_every == 0
    assert resolved.primary_metric == "exact_match"
    assert [arm.decode for arm in resolved.arms.values()] == ["nearest", "threshold", "threshold"]
    assert [arm.pal_normalize for arm in resolved.arms.values()] == [False, False, None]
    assert resolve_arms(resolved) == resolved
    single = resolve_arms(make(Arm(), dataset="digits"))
    assert (single.collapse_every, single.primary_metric, single.arms["a"].decode) == (1, None, None)


def test_a_smoke_run_stays_multi_label(tmp_path):
    small = smoke(make(PAL, train_images_per_set=(5, 1)))
    assert small.dataset == "multilabel_synthetic"
    path = tmp_path / "small.yaml"
    path.write_text(dump_recipe(small))
    assert load_recipe(str(path)) == small


def test_resolved_recipes_load_again(tmp_path):
    resolved = resolve_arms(make(dataclasses.replace(PAL, pal_normalize=True), eval_images_per_set=(3, 0, 1)))
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_recipe(resolved))
    assert load_recipe(str(path)) == resolved
