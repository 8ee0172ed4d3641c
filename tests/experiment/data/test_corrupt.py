"""Noisy labels of a comparison: images stay, training and validation labels change, test labels do not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from etfhead.errors import DataError
from etfhead.experiment.data import load_data, read_data
from etfhead.experiment.data.corrupt import class_flips
from etfhead.experiment.data.digits import read_digits
from etfhead.experiment.data.label_noise import CLASS_FLIPS, flip_matrix


@pytest.fixture
def noisy(make_recipe):
    def make(**changes):
        fields = {"dataset": "digits", "in_chans": 1, "noise_kind": "symmetric", "noise_rate": 0.4}
        return make_recipe(**{**fields, **changes})

    return make


def labels_of(splits):
    return np.array(splits.train.labels), np.array(splits.val.labels), np.array(splits.test.labels)


def test_images_and_test_labels_are_those_of_the_clean_comparison(noisy):
    recipe = noisy()
    clean, dirty = load_data(replace(recipe, noise_kind=None, noise_rate=0.0)), load_data(recipe)
    for a, b in ((clean.val, dirty.val), (clean.test, dirty.test), (clean.plain, dirty.plain)):
        assert len(a) == len(b)
        assert all(torch.equal(a[i][0], b[i][0]) for i in range(0, len(a), 37))
    (y, v, t), (y2, v2, t2) = labels_of(clean), labels_of(dirty)
    assert (t == t2).all()
    assert (dirty.true_train == y).all()
    assert (dirty.true_val == v).all()
    assert dirty.plain.labels == dirty.train.labels
    assert 0.35 < (y != y2).mean() < 0.45
    assert 0.25 < (v != v2).mean() < 0.55
    assert clean.true_train is None
    assert clean.transition is None
    assert clean.info["digest"] != dirty.info["digest"]
    assert dirty.class_counts == tuple(np.bincount(y2, minlength=10))


def test_what_came_of_it_is_written_down(noisy):
    splits = load_data(noisy())
    y, v, _ = labels_of(splits)
    facts = splits.info["label_noise"]
    assert facts["train_rate"] == (y != splits.true_train).mean()
    assert facts["val_rate"] == (v != splits.true_val).mean()
    wrong = splits.true_train[y != splits.true_train]
    assert facts["train_wrong_by_true_class"] == np.bincount(wrong, minlength=10).tolist()
    assert (facts["kind"], facts["rate"], facts["seed"]) == ("symmetric", 0.4, 0)
    assert splits.info["label_transition"] == splits.transition.tolist()
    rate = f"{100 * facts['train_rate']:.1f} % of the training"
    assert any("label noise (symmetric)" in note and rate in note for note in splits.info["notes"])
    json.dumps(splits.info, allow_nan=False)


def test_a_rate_of_zero_is_still_a_comparison_on_noisy_labels(noisy):
    splits = load_data(noisy(noise_rate=0.0))
    assert (splits.true_train == splits.train.labels).all()
    assert torch.equal(splits.transition, torch.eye(10).double())


def test_exact_shares_and_chosen_ones_that_may_come_out_right(noisy):
    exact = load_data(noisy(noise_exact=True, noise_rate=0.3))
    for k in range(10):
        mine = np.array(exact.train.labels)[exact.true_train == k]
        assert (mine != k).sum() == pytest.approx(0.3 * len(mine), abs=1)
    included = load_data(noisy(noise_include_true=True, noise_rate=0.5))
    assert included.transition[0, 0].item() == pytest.approx(0.55)
    assert included.info["label_noise"]["train_rate"] == pytest.approx(0.45, abs=0.04)


def test_flips_of_the_data_set_of_the_recipe_and_between_kept_classes(noisy):
    recipe = noisy(noise_kind="asymmetric", noise_rate=0.5)
    splits = load_data(recipe)
    y, true = np.array(splits.train.labels), splits.true_train
    moved = {(int(a), int(b)) for a, b in zip(true, y, strict=True) if a != b}
    assert moved == set(CLASS_FLIPS["digits"].items())
    own = noisy(noise_kind="asymmetric", noise_rate=0.5, noise_flips={"3": 1})
    assert class_flips(own, 10) == {3: 1}
    assert torch.allclose(
        load_data(own).transition, 0.5 * torch.eye(10) + 0.5 * flip_matrix({3: 1}, 10), atol=1e-12
    )
    kept = noisy(noise_kind="asymmetric", noise_rate=0.5, classes=(6, 1, 5))
    assert class_flips(kept, 3) == {2: 0, 0: 2}  # 5 <-> 6; 7 -> 1 is not there
    with pytest.raises(DataError, match=r"no flips of its own between the classes \[0, 1\]"):
        class_flips(noisy(noise_kind="asymmetric", noise_rate=0.5, classes=(0, 1)), 2)
    for bad in ({0: 10}, {"a": 1}, {0: True}, {0: 1.5}, {0: 1, 3: 3}):
        with pytest.raises(DataError, match=r"noise_flips: expected classes from 0 to 9"):
            class_flips(noisy(noise_kind="asymmetric", noise_rate=0.5, noise_flips=bad), 10)


def test_instance_noise_needs_images_in_memory(noisy, make_recipe, image_tree, tmp_path):
    splits = load_data(noisy(noise_kind="instance"))
    assert splits.info["label_noise"]["train_rate"] == pytest.approx(0.4, abs=0.06)
    root = str(image_tree(tmp_path / "tree"))
    on_disk = make_recipe(dataset="image_folder", data_root=root, noise_kind="instance", noise_rate=0.4)
    with pytest.raises(DataError, match=r"noise_kind: instance noise looks at all images at once"):
        load_data(on_disk)
    assert load_data(replace(on_disk, noise_kind="symmetric")).info["label_noise"]["kind"] == "symmetric"


def test_every_seed_draws_anew_if_asked_and_images_stay(noisy):
    data = read_data(noisy(redraw=True, seeds=(3, 4)))
    first, second = data.splits(3), data.splits(4)
    assert [first.train.labels == second.train.labels, first.val.labels == second.val.labels] == [False] * 2
    assert (first.true_train == second.true_train).all()
    assert all(torch.equal(first.val[i][0], second.val[i][0]) for i in range(0, len(first.val), 11))
    assert first.test.labels == second.test.labels
    assert first.info["digest"] != second.info["digest"]
    again = read_data(noisy(redraw=True, seeds=(4,))).splits(4)
    assert again.train.labels == second.train.labels  # whatever other seeds there are
    facts = data.info()["draws"]
    assert facts["3"]["label_noise"]["train_rate"] == first.info["label_noise"]["train_rate"]
    fixed = read_data(noisy(seeds=(3, 4)))
    assert fixed.splits(3).train.labels == fixed.splits(4).train.labels


def test_labels_from_files(noisy, tmp_path):
    own = read_digits().train.labels
    observed = np.where(np.arange(len(own)) % 4 == 0, (own + 1) % 10, own)
    np.save(tmp_path / "observed.npy", observed)
    recipe = noisy(noise_kind=None, noise_rate=0.0, labels_file=str(tmp_path / "observed.npy"))
    splits, clean = load_data(recipe), load_data(replace(recipe, labels_file=None))
    assert (splits.true_train == clean.train.labels).all()
    assert (splits.true_val == clean.val.labels).all()
    at = np.flatnonzero(observed != own)
    seen = np.array([*splits.train.labels, *splits.val.labels])
    true = np.array([*splits.true_train, *splits.true_val])
    assert (seen != true).sum() == len(at)
    assert ((seen == true) | (seen == (true + 1) % 10)).all()
    counts = np.zeros((10, 10))
    np.add.at(counts, (true, seen), 1)
    assert torch.allclose(splits.transition, torch.from_numpy(counts / counts.sum(1, keepdims=True)))
    assert splits.info["label_noise"]["kind"] == "from a file"
    # The other way round: the data set's labels are the noisy ones, and the true ones lie beside them.
    np.save(tmp_path / "true.npy", observed)
    swapped = replace(recipe, labels_file=None, clean_labels_file=str(tmp_path / "true.npy"))
    back = load_data(swapped)
    assert set(np.array(back.train.labels)[back.train.labels != back.true_train]) <= set(range(10))
    assert back.info["label_noise"]["train_rate"] == pytest.approx(0.25, abs=0.02)


def test_files_that_do_not_fit(noisy, tmp_path):
    own = read_digits().train.labels
    np.save(tmp_path / "short.npy", own[:-1])
    np.save(tmp_path / "other.npy", np.roll(own, 7)[np.random.default_rng(0).permutation(len(own))])
    recipe = noisy(noise_kind=None, noise_rate=0.0)
    with pytest.raises(DataError, match=r"clean_labels_file: .*holds 1,437 labels, expected 1,438"):
        load_data(replace(recipe, clean_labels_file=str(tmp_path / "short.npy")))
    with pytest.raises(DataError, match=r"labels_file: .* % of the labels are not the true ones, no better"):
        load_data(replace(recipe, labels_file=str(tmp_path / "other.npy")))


def test_kept_classes(make_recipe):
    splits = load_data(make_recipe(classes=(4, 2)))
    assert splits.class_names == ("pattern 4", "pattern 2")
    assert splits.num_classes == 2
    assert set(splits.train.labels) == set(splits.test.labels) == {0, 1}
