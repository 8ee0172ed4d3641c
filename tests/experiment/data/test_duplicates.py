"""Duplicates across three splits, against a plain loop."""

import numpy as np
import pytest

from etfhead.experiment.data.duplicates import apart, hash_rows


@pytest.mark.parametrize("seed", range(5))
def test_no_two_splits_share_an_item_and_test_keeps_all(seed):
    rows = np.random.default_rng(seed).integers(0, 12, size=(60, 1))
    prints = hash_rows(rows)
    train, val, test = prints[:40], prints[40:52], prints[52:]
    stay, stay_val, counts = apart(train, val, test, "rows")
    assert stay.tolist() == [item not in test and item not in val for item in train]
    assert stay_val.tolist() == [item not in test for item in val]
    in_test = sum(item in test for item in train)
    assert counts == {
        "train_rows_removed_as_in_test": in_test,
        "train_rows_removed_as_in_val": int((~stay).sum()) - in_test,
        "val_rows_removed_as_in_test": int((~stay_val).sum()),
    }


def test_prints_are_equal_exactly_where_rows_are():
    rows = np.random.default_rng(0).integers(0, 3, size=(50, 2))
    prints = np.array(hash_rows(rows))
    assert ((prints[:, None] == prints[None]) == (rows[:, None] == rows[None]).all(-1)).all()
