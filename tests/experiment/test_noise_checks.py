"""Fields of label noise that would be ignored, or that contradict each other, are refused by name."""

import pytest

from etfhead.experiment.field_error import FieldError
from etfhead.experiment.recipe import Arm, Recipe


def make(**changes):
    fields = {"name": "t", "model": "test_resnet", "img_size": 8, "epochs": 1, "dataset": "digits"}
    return Recipe(**{**fields, "arms": {"a": Arm()}, "baseline": "a", **changes})


@pytest.mark.parametrize(
    "fields",
    [
        {"noise_kind": "symmetric", "noise_rate": 0.0},
        {"noise_kind": "symmetric", "noise_rate": 0.4, "noise_include_true": True, "noise_exact": True},
        {"noise_kind": "asymmetric", "noise_rate": 0.4, "noise_flips": {0: 1}},
        {"labels_file": "a.npy", "clean_labels_file": "b.pt:clean"},
        {"clean_labels_file": "b.csv"},
        {"classes": (3, 1), "noise_kind": "pairflip", "noise_rate": 0.2},
    ],
)
def test_what_goes_together(fields):
    make(**fields)


@pytest.mark.parametrize(
    ("fields", "key", "reason"),
    [
        ({"noise_rate": 0.2}, "noise_rate", "no effect without noise_kind"),
        ({"noise_flips": {0: 1}}, "noise_flips", "no effect without noise_kind"),
        ({"noise_kind": "pairflip", "noise_include_true": True}, "noise_include_true", "symmetric, not of"),
        ({"noise_kind": "symmetric", "noise_flips": {0: 1}}, "noise_flips", "asymmetric, not of symmetric"),
        ({"noise_kind": "instance", "noise_exact": True}, "noise_exact", "not of instance"),
        ({"noise_kind": "symmetric", "noise_rate": 1.0}, "noise_rate", "< 1"),
        ({"noise_kind": "symmetric", "noise_rate": -0.1}, "noise_rate", ">= 0"),
        ({"noise_kind": "symmetric", "labels_file": "a.npy"}, "labels_file", "excludes noise_kind"),
        ({"labels_file": "a.npy", "classes": (0, 1)}, "labels_file", "remove classes"),
        ({"labels_file": "a.npy", "redraw": True}, "redraw", "no effect without noise_kind or imbalance"),
        ({"classes": (0,)}, "classes", "at least two"),
        ({"classes": (0, 0)}, "classes", "different classes"),
        ({"classes": (-1, 0)}, "classes", ">= 0"),
    ],
)
def test_what_does_not(fields, key, reason):
    with pytest.raises(FieldError, match=reason) as caught:
        make(**fields)
    assert caught.value.path == (key,)


@pytest.mark.parametrize(
    "fields", [{"noise_kind": "symmetric"}, {"labels_file": "a.npy"}, {"classes": (0, 1)}]
)
def test_label_sets_have_no_label_noise(fields):
    with pytest.raises(FieldError, match="needs one class an image"):
        make(
            dataset="multilabel_digits",
            arms={"a": Arm(loss="pick_all_label")},
            collapse_every=0,
            **fields,
        )
