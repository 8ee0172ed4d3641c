from __future__ import annotations

import numpy as np
import pytest

from etfhead.errors import DataError
from etfhead.experiment.data.regression_npz import count_npz_targets, read_regression_npz

N, D, TARGETS = 60, 4, 3
SPLIT = np.array(["train"] * 35 + ["val"] * 10 + ["test"] * 15)


def arrays(**changes):
    rng = np.random.default_rng(0)
    made = {
        "x": rng.normal(size=(N, D)),
        "y": rng.normal(size=(N, TARGETS)),
        "target_names": np.array(["depth", "speed", "angle"]),
        "split": SPLIT,
    }
    merged = {**made, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def replaced(name, where, value):
    array = arrays()[name].copy()
    array[where] = value
    return {name: array}


@pytest.fixture
def save(tmp_path):
    def _save(content):
        path = tmp_path / "set.npz"
        np.savez_compressed(path, **content)
        return str(path)

    return _save


def test_every_row_arrives_in_its_split_with_its_targets(save):
    content = arrays()
    parts = read_regression_npz(save(content))
    assert parts.target_names == ("depth", "speed", "angle")
    assert parts.is_table
    for part, rows in ((parts.train, slice(0, 35)), (parts.val, slice(35, 45)), (parts.test, slice(45, N))):
        assert np.array_equal(part.inputs, content["x"][rows])
        assert np.array_equal(part.targets, content["y"][rows])
    assert set(parts.duplicates.values()) == {0}
    assert count_npz_targets(save(content)) == TARGETS


def test_a_missing_split_is_drawn_and_the_test_part_never_moves(save):
    path = save(arrays(split=None, target_names=None))
    first = read_regression_npz(path, val_fraction=0.25)
    other = read_regression_npz(path, val_fraction=0.25, split_seed=1)
    assert (len(first.train), len(first.val), len(first.test)) == (36, 12, 12)
    assert np.array_equal(first.test.inputs, other.test.inputs)
    assert not np.array_equal(first.val.inputs, other.val.inputs)
    rows = np.concatenate([part.inputs for part in (first.train, first.val, first.test)])
    assert len(np.unique(rows, axis=0)) == N
    assert first.target_names == ("target 0", "target 1", "target 2")
    again = read_regression_npz(path, val_fraction=0.25)
    assert again.digest() == first.digest() != other.digest()


def test_only_validation_is_drawn_where_the_split_names_none(save):
    split = np.where(SPLIT == "val", "train", SPLIT)
    content = arrays(split=split)
    parts = read_regression_npz(save(content), val_fraction=0.2)
    assert (len(parts.train), len(parts.val)) == (36, 9)
    assert np.array_equal(parts.test.inputs, content["x"][45:])


def test_inputs_of_two_splits_leave_training_then_validation(save):
    x = arrays()["x"].copy()
    x[0], x[1], x[36] = x[50], x[40], x[51]  # train = test, train = val, val = test
    parts = read_regression_npz(save(arrays(x=x)))
    assert (len(parts.train), len(parts.val), len(parts.test)) == (33, 9, 15)
    assert parts.duplicates == {
        "train_samples_removed_as_in_test": 1,
        "train_samples_removed_as_in_val": 1,
        "val_samples_removed_as_in_test": 1,
        "inputs_with_conflicting_targets": 3,
    }


@pytest.mark.parametrize("shape", [(N, 6, 5), (N, 6, 5, 1), (N, 6, 5, 3)])
def test_images_have_targets_too(save, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    parts = read_regression_npz(save(arrays(x=pixels, y=np.arange(N), target_names=None)))
    assert not parts.is_table
    assert np.array_equal(parts.train.inputs, pixels[:35, ..., 0] if shape[-1] == 1 else pixels[:35])
    assert parts.test.targets.tolist() == [[float(i)] for i in range(45, N)]


def test_a_limit_keeps_so_many_training_samples(save):
    parts = read_regression_npz(save(arrays()))
    few = parts.limited(10, seed=0)
    assert len(few.train) == 10
    assert {row.tobytes() for row in few.train.inputs} < {row.tobytes() for row in parts.train.inputs}
    assert np.array_equal(few.val.inputs, parts.val.inputs)
    assert len(parts.limited(1000, seed=0).train) == len(parts.limited(None, seed=0).train) == 35
    with pytest.raises(DataError, match="train_limit=1: expected at least 2"):
        parts.limited(1, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, "lacks y; it has"),
        (replaced("y", (7, 1), np.nan), "y holds nan for sample 7, target 1, and so do 0 other samples"),
        (replaced("y", (7, 1), np.inf), "y holds inf for sample 7"),
        (replaced("x", (3, 2), np.nan), "x holds nan in row 3, column 2; fill gaps in"),
        ({"y": np.array(["a"] * N)}, "y is <U1 of shape .*expected real numbers"),
        ({"y": np.zeros((N, 0))}, "y is float64 of shape .*expected real numbers"),
        ({"x": np.array([["a"] * D] * N)}, "x is <U1 .*categories have to be coded"),
        ({"x": np.zeros((N, 4, 4))}, "x is float64 of shape .*expected images, uint8"),
        ({"x": np.zeros(())}, r"x is float64 of shape \(\), expected a table"),
        ({"x": np.zeros((N, 4, 4, 2), dtype=np.uint8)}, "expected images, uint8"),
        ({"x": np.zeros((N - 1, D))}, "y holds 60 rows, expected one for each of 59"),
        ({"target_names": np.array(["a", "a", "b"])}, "target_names repeats a name"),
        ({"target_names": np.array(["a"])}, "target_names is .*expected 3 texts"),
        ({"split": np.array(["train"] * 59 + ["dev"])}, "split holds 'dev' for sample 59"),
        ({"split": SPLIT[:-1]}, "split is .*expected 60 texts"),
        ({"split": np.array(["train"] * 59 + ["test"])}, "leave 1 to the test split"),
        ({"x": np.zeros((N, D))}, "0 sample.* are left to the train split once inputs"),
    ],
)
def test_bad_files_are_named(save, changes, message):
    with pytest.raises(DataError, match=message):
        read_regression_npz(save(arrays(**changes)))


def test_a_path_that_is_no_archive_is_named(tmp_path):
    (tmp_path / "set.npz").write_text("no zip")
    for root, message in (
        (None, "needs data_root"),
        (tmp_path, "is a folder"),
        (tmp_path / "set.npz", "not a .npz"),
    ):
        with pytest.raises(DataError, match=message):
            read_regression_npz(None if root is None else str(root))
