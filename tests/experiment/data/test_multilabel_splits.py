from __future__ import annotations

import numpy as np
import pytest

from etfhead.errors import DataError
from etfhead.experiment.data.multilabel_splits import iterative_split, multilabel_limit


def long_tailed(n=600, labels=12, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((n, labels)) < np.geomspace(0.4, 0.012, labels)).astype(np.int64)


def names(targets):
    return [f"l{k}" for k in range(targets.shape[1])]


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.2), (0.9, 0.1), (0.5, 0.5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_label_is_in_every_part_in_proportion(shares, seed):
    targets = long_tailed()
    parts = iterative_split(targets, shares, seed, names(targets))
    positives = targets.sum(0)
    for part, share in enumerate(shares):
        inside = targets[parts == part].sum(0)
        assert (inside >= 1).all()
        assert np.abs(inside - share * positives).max() <= 0.02 * len(targets)
        assert np.abs(inside - share * positives)[positives < 40].max() <= 2
        assert abs((parts == part).mean() - share) < 0.03


def test_rare_labels_are_shared_closer_than_by_chance():
    targets = long_tailed()
    gap, chance = [], []
    for seed in range(5):
        parts = iterative_split(targets, (0.8, 0.2), seed, names(targets))
        shuffled = np.random.default_rng(seed).permutation(parts)
        wanted = 0.2 * targets.sum(0)
        gap.append(np.abs(targets[parts == 1].sum(0) - wanted)[-5:].mean())
        chance.append(np.abs(targets[shuffled == 1].sum(0) - wanted)[-5:].mean())
    assert np.mean(gap) < 0.5 * np.mean(chance)


def test_single_labels_are_split_exactly():
    targets = np.eye(5, dtype=np.int64).repeat(10, axis=0)
    parts = iterative_split(targets, (0.7, 0.3), 3, names(targets))
    assert [targets[parts == part].sum(0).tolist() for part in (0, 1)] == [[7] * 5, [3] * 5]


def test_the_seed_decides_and_images_without_labels_fill_up():
    targets = long_tailed()
    targets[::3] = 0
    first, again, other = (iterative_split(targets, (0.8, 0.2), s, names(targets)) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert abs((first == 1).mean() - 0.2) < 0.03
    assert set(first.tolist()) == {0, 1}


def test_a_label_on_too_few_images_is_named():
    targets = np.array([[1, 0], [1, 1], [1, 0]])
    with pytest.raises(DataError, match=r"label 'l1' has 1 image\(s\), expected at least 2"):
        iterative_split(targets, (0.5, 0.5), 0, names(targets))
    unused = np.array([[1, 0], [1, 0]])
    assert sorted(iterative_split(unused, (0.5, 0.5), 0, names(unused)).tolist()) == [0, 1]


@pytest.mark.parametrize("limit", [40, 100, 599])
def test_limit_is_exact_keeps_every_label_and_its_share(limit):
    targets = long_tailed()
    kept = multilabel_limit(targets, limit, 0, names(targets))
    assert len(set(kept.tolist())) == len(kept) == limit
    assert (np.diff(kept) > 0).all()
    assert (targets[kept].sum(0) >= 1).all()
    frequent = targets.mean(0) > 0.1
    assert np.abs(targets[kept].mean(0) - targets.mean(0))[frequent].max() < 3 * 0.5 / np.sqrt(limit)
    assert np.array_equal(kept, multilabel_limit(targets, limit, 0, names(targets)))


def test_limit_beyond_all_images_or_below_the_labels():
    targets = np.eye(4, dtype=np.int64)
    assert multilabel_limit(targets, 9, 0, names(targets)).tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="train_limit=3 images cannot show each of 4 labels, expected 4"):
        multilabel_limit(targets, 3, 0, names(targets))
