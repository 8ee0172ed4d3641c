import math

import numpy as np
import pytest

from etfhead.errors import DataError
from etfhead.experiment.data.long_tail import class_order, long_tail_counts, long_tail_indices


def counts_by_loop(K, largest, factor, kind):
    found = []
    for k in range(K):
        if kind == "exponential":
            found.append(math.floor(round(largest * math.exp(-math.log(factor) * k / (K - 1)), 6)))
        else:
            found.append(largest if k < K // 2 else math.floor(largest / factor))
    return tuple(found)


@pytest.mark.parametrize("kind", ["exponential", "step"])
@pytest.mark.parametrize(("K", "largest", "factor"), [(10, 3000, 100), (7, 91, 9.5), (2, 4, 4), (3, 50, 1)])
def test_counts_follow_the_rule(K, largest, factor, kind):
    assert long_tail_counts(K, largest, factor, kind) == counts_by_loop(K, largest, factor, kind)


def test_counts_are_those_of_the_public_sets():
    cifar10, cifar100 = long_tail_counts(10, 5000, 100), long_tail_counts(100, 500, 100)
    assert cifar10 == (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    assert (sum(cifar10), sum(cifar100), cifar100[-1]) == (12406, 10847, 5)
    assert sum(long_tail_counts(10, 5000, 10)) == 20431
    assert sum(long_tail_counts(100, 500, 10)) == 19573


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"factor": 0.5}, "factor=0.5: .*>= 1"),
        ({"factor": math.inf}, "factor=inf"),
        ({"factor": math.nan}, "factor=nan"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"largest": 0}, "largest=0"),
        ({"kind": "linear"}, "kind='linear': expected exponential or step"),
        ({"largest": 50}, "rarest class without an image, of 50 .*at most 50"),
    ],
)
def test_refuses_what_gives_no_long_tail(change, names):
    options = {"num_classes": 10, "largest": 500, "factor": 100.0, **change}
    with pytest.raises(ValueError, match=names):
        long_tail_counts(**options)


@pytest.fixture
def labels():
    return np.random.default_rng(0).permutation(np.repeat(np.arange(5), 40))


def test_every_rank_keeps_its_count_of_its_class(labels):
    order = (3, 0, 4, 1, 2)
    kept = long_tail_indices(labels, [40, 20, 9, 3, 1], order, seed=1)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert [int((labels[kept] == k).sum()) for k in order] == [40, 20, 9, 3, 1]


def test_a_smaller_count_is_a_part_and_another_seed_another_choice(labels):
    def kept(count, seed):
        return set(long_tail_indices(labels, [count] * 5, range(5), seed=seed).tolist())

    assert kept(5, 0) < kept(20, 0)
    assert kept(20, 0) != kept(20, 1)
    assert kept(20, 0) == kept(20, 0)


def test_refuses_a_class_below_its_count_and_a_wrong_order(labels):
    with pytest.raises(DataError, match=r"class 2 has 40 training images and rank 0 .*needs 41"):
        long_tail_indices(labels, [41, 1, 1, 1, 1], [2, 0, 1, 3, 4], seed=0)
    with pytest.raises(ValueError, match="order: expected the classes 0 to 4"):
        long_tail_indices(labels, [1] * 5, [0, 1, 2, 3, 3], seed=0)


def test_orders():
    assert class_order(6, "file", 3) == (0, 1, 2, 3, 4, 5)
    drawn = [class_order(6, "drawn", seed) for seed in range(20)]
    assert all(sorted(order) == list(range(6)) for order in drawn)
    assert len(set(drawn)) > 15
    assert len({order[-1] for order in drawn}) == 6  # every class is the rarest some time
    with pytest.raises(ValueError, match="order='size'"):
        class_order(6, "size", 0)
