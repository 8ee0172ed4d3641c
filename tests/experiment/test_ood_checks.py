from dataclasses import replace

import pytest

from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.schema import dump_recipe, smoke
from etfhead.experiment.training.fingerprint import make_fingerprint

BASE = {
    "name": "x",
    "model": "test_resnet",
    "img_size": 8,
    "epochs": 1,
    "arms": {"etf": Arm(head="etf")},
    "baseline": "etf",
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "digits", "ood_root": "x"}, "ood_root: has no effect"),
        ({"dataset": "digits", "ood_dataset": "digits"}, "ood_dataset: expected another"),
        ({"dataset": "digits", "ood_dataset": "npz"}, "ood_root: .*needs the file's path"),
        ({"dataset": "digits", "ood_dataset": "image_folder"}, "ood_root: .*needs the folder's path"),
        ({"dataset": "digits", "ood_dataset": "synthetic", "ood_root": "x"}, "ood_root: .*no folder"),
        ({"dataset": "npz", "data_root": "x", "ood_dataset": "npz", "ood_root": "x"}, "another data set"),
        ({"dataset": "multilabel_digits", "ood_dataset": "digits"}, "ood_dataset: needs one class"),
        ({"dataset": "regression_linnerud", "ood_dataset": "digits"}, "ood_dataset: needs one class"),
    ],
)
def test_contradictions_are_refused(fields, message):
    arm = {"multi": Arm(head="linear", loss="pick_all_label"), "regr": Arm(head="linear", loss="mse")}
    kind = fields["dataset"][:5].rstrip("e")[:5]
    chosen = arm["multi"] if kind == "multi" else arm["regr"] if kind.startswith("regr") else Arm(head="etf")
    with pytest.raises(ValueError, match=message):
        Recipe(**{**BASE, "arms": {"etf": chosen}, **fields})


def test_two_archives_and_a_download_for_the_outliers_alone():
    Recipe(**BASE, dataset="npz", data_root="x", ood_dataset="npz", ood_root="y")
    Recipe(**BASE, dataset="digits", ood_dataset="cifar10", download=True)
    Recipe(**BASE, dataset="digits", ood_dataset="image_folder", ood_root="x", unreadable_images="stop")
    with pytest.raises(ValueError, match="download"):
        Recipe(**BASE, dataset="digits", ood_dataset="synthetic", download=True)


def test_a_smoke_run_has_outliers_too_and_a_result_knows_its_own():
    recipe = Recipe(**BASE, dataset="cifar10", ood_dataset="npz", ood_root="y")
    assert (smoke(recipe).ood_dataset, smoke(recipe).ood_root) == ("digits", None)
    assert smoke(replace(recipe, ood_dataset=None, ood_root=None)).ood_dataset is None
    assert "ood_dataset: npz" in dump_recipe(recipe)
    prints = [
        make_fingerprint(each, "etf", 0, data_digest="")
        for each in (
            recipe,
            replace(recipe, ood_root="z"),
            replace(recipe, ood_dataset="digits", ood_root=None),
        )
    ]
    assert prints[0] == prints[1] != prints[2]
