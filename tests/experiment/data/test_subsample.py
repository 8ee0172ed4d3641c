from types import SimpleNamespace

import numpy as np
import pytest

from etfhead.errors import DataError
from etfhead.experiment.data.subsample import subsample

NAMES = ("cat", "dog", "elk")
LABELS = np.repeat([0, 1, 2], [50, 40, 60])


def knobs(**changed):
    base = {"imbalance_factor": 4.0, "imbalance_kind": "exponential", "imbalance_max": None}
    return SimpleNamespace(**{**base, "imbalance_order": "file", **changed})


def test_without_a_factor_everything_stays():
    kept, info = subsample(knobs(imbalance_factor=None), LABELS, NAMES, 0)
    assert kept.tolist() == list(range(150))
    assert info == {}


def test_the_largest_class_has_what_every_class_could_give():
    kept, info = subsample(knobs(), LABELS, NAMES, 0)
    assert np.bincount(LABELS[kept]).tolist() == [40, 20, 10]
    assert info["imbalance"]["images"] == {"cat": 40, "dog": 20, "elk": 10}
    assert info["imbalance"]["largest"] == 40


def test_a_factor_of_one_balances():
    kept, _ = subsample(knobs(imbalance_factor=1.0), LABELS, NAMES, 0)
    assert np.bincount(LABELS[kept]).tolist() == [40, 40, 40]


def test_drawn_order_changes_with_the_seed_and_the_total_does_not():
    found = [subsample(knobs(imbalance_order="drawn"), LABELS, NAMES, seed) for seed in range(12)]
    assert {len(kept) for kept, _ in found} == {70}
    assert len({tuple(info["imbalance"]["images"]) for _, info in found}) > 3
    for kept, info in found:
        counts = dict(zip(NAMES, np.bincount(LABELS[kept]).tolist(), strict=True))
        assert counts == info["imbalance"]["images"]


def test_step_and_a_stated_maximum():
    kept, _ = subsample(knobs(imbalance_kind="step", imbalance_max=20), LABELS, NAMES, 0)
    assert np.bincount(LABELS[kept]).tolist() == [20, 5, 5]


def test_refuses_more_than_a_class_has():
    with pytest.raises(DataError, match=r"imbalance_max: class 'cat' has 50 .* would need 55.* null for 40"):
        subsample(knobs(imbalance_max=55), LABELS, NAMES, 0)
    with pytest.raises(DataError, match=r"imbalance_factor: .*rarest class without an image"):
        subsample(knobs(imbalance_factor=41.0), LABELS, NAMES, 0)
