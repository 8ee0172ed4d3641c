from __future__ import annotations

import numpy as np
import pytest

from etfhead.errors import DataError
from etfhead.experiment.data.splits import apportion, stratified_holdout, stratified_limit

LABELS = np.repeat([0, 1, 2], [100, 37, 5])


def test_holdout_is_a_stratified_partition():
    stay, held = stratified_holdout(LABELS, 0.1, 0, "abc")
    assert sorted([*stay, *held]) == list(range(142))
    assert np.bincount(LABELS[held]).tolist() == [10, 4, 1]
    assert (np.diff(stay) > 0).all()
    assert (np.diff(held) > 0).all()


def test_holdout_depends_on_the_seed_only():
    first, second, other = (stratified_holdout(LABELS, 0.3, seed, "abc")[1] for seed in (5, 5, 6))
    assert first.tolist() == second.tolist()
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize(("labels", "fraction", "message"), [
    ([0, 0, 0, 1], 0.25, r"class 'b' \(1 image\(s\)\) without training images"),
    ([0, 0, 0, 1, 1, 1], 0.9, "val_fraction=0.9 leaves class 'a'"),
    ([0, 0, 0], 0.5, r"class 'b' \(0 image\(s\)\) without training or validation images"),
])  # fmt: skip
def test_holdout_names_the_class_that_would_be_empty(labels, fraction, message):
    with pytest.raises(DataError, match=message):
        stratified_holdout(np.array(labels), fraction, 0, "ab")


def test_apportion_keeps_total_bounds_and_proportion():
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(1, 200, rng.integers(2, 12))
        total = int(rng.integers(len(counts), counts.sum() + 1))
        seats = apportion(counts, total)
        assert seats.sum() == total
        assert (seats >= 1).all()
        assert (seats <= counts).all()
        quota = counts * total / counts.sum()
        # Only classes below one seat are rounded by more than one; they take seats from the others.
        if (quota >= 1).all():
            assert (np.abs(seats - quota) < 1).all()


def test_limit_is_stratified():
    # Quotas 9.86, 3.65 and 0.49; the third class gets its one seat, the last seat goes to the first.
    kept = stratified_limit(LABELS, 14, 0, 3)
    assert len(np.unique(kept)) == 14
    assert np.bincount(LABELS[kept]).tolist() == [10, 3, 1]


def test_limit_beyond_the_set_keeps_everything():
    assert stratified_limit(LABELS, 10_000, 0, 3).tolist() == list(range(142))


def test_limit_below_the_number_of_classes():
    with pytest.raises(DataError, match=r"train_limit must be at least the number of classes \(3\), got 2"):
        stratified_limit(LABELS, 2, 0, 3)
