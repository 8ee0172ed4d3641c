"""Multi-label sets through the loader that every run uses."""

import numpy as np
import pytest
import torch

from etfhead.errors import DataError
from etfhead.experiment.data import load_data
from etfhead.experiment.data.multilabel_synthetic import read_multilabel_synthetic
from etfhead.experiment.recipe import Arm, Recipe


def make(**changes):
    options = {
        "name": "t",
        "model": "test_resnet",
        "img_size": 32,
        "dataset": "multilabel_digits",
        "epochs": 1,
    }
    arms = {"a": Arm(loss="binary_cross_entropy")}
    return Recipe(**{**options, "in_chans": 1, "val_fraction": 0.2, "arms": arms, "baseline": "a", **changes})


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("dataset", ["multilabel_digits", "multilabel_synthetic"])
def test_items_are_images_with_multi_hot_rows(dataset, in_chans):
    splits = load_data(make(dataset=dataset, in_chans=in_chans))
    for part, item in ((splits.train, (0, 7)), (splits.plain, 0), (splits.val, 0), (splits.test, 0)):
        image, target = part[item]
        assert image.shape == (in_chans, 32, 32)
        assert target.shape == (splits.num_classes,)
        assert target.dtype == torch.float32
    total = sum(splits.plain[i][1] for i in range(len(splits.plain)))
    assert total.int().tolist() == list(splits.class_counts)
    assert sum(splits.info["train_images_with_0_1_2_labels"]) == splits.info["sizes"]["train"]


def test_the_knobs_reach_the_data():
    splits = load_data(make(train_images_per_set=(4, 1), eval_images_per_set=(2,)))
    assert splits.info["sizes"] == {"train": 40 + 45, "val": 20, "test": 20}
    other = load_data(make(train_images_per_set=(4, 1), eval_images_per_set=(2,), split_seed=1))
    assert other.info["digest"] != splits.info["digest"]
    limited = load_data(make(train_images_per_set=(4, 1), eval_images_per_set=(2,), train_limit=30))
    assert limited.info["sizes"]["train"] == 30


def test_impossible_counts_are_named():
    with pytest.raises(DataError, match="train_images_per_set"):
        load_data(make(train_images_per_set=(0, 0)))


def test_a_file_is_read_with_its_labels(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.tile(np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=np.uint8), (10, 1))
    images = generator.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=labels, class_names=np.array(["x", "y", "z"]))
    splits = load_data(make(dataset="multilabel_npz", data_root=str(tmp_path / "set.npz")))
    assert splits.class_names == ("x", "y", "z")
    assert sum(splits.info["sizes"].values()) == 40


def test_synthetic_parts_are_made_of_different_patterns():
    parts = read_multilabel_synthetic(32)
    prints = [{image.tobytes() for image in part.pixels} for part in (parts.train, parts.val, parts.test)]
    assert not prints[0] & prints[1]
    assert not prints[1] & prints[2]
    assert not prints[0] & prints[2]
