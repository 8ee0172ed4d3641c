from __future__ import annotations

import itertools

import numpy as np
import pytest

from etfhead.experiment.data import KeyedBatchSampler


def _flat(sampler: KeyedBatchSampler) -> list[tuple[int, int]]:
    return list(itertools.chain.from_iterable(sampler))


def test_an_epoch_visits_every_index_once():
    assert sorted(i for i, _ in _flat(KeyedBatchSampler(103, 10, seed=3, drop_last=False))) == list(
        range(103)
    )


@pytest.mark.parametrize(("n", "batch", "drop", "sizes"), [
    (10, 4, True, [4, 4]),
    (10, 4, False, [4, 4, 2]),
    (8, 4, True, [4, 4]),
    (3, 8, True, [3]),
    (1, 1, True, [1]),
])  # fmt: skip
def test_batch_sizes_and_length(n, batch, drop, sizes):
    sampler = KeyedBatchSampler(n, batch, seed=0, drop_last=drop)
    assert [len(b) for b in sampler] == sizes
    assert len(sampler) == len(sizes)


def test_order_and_keys_do_not_depend_on_batch_size():
    items = [_flat(KeyedBatchSampler(60, batch, seed=1)) for batch in (1, 4, 60)]
    assert items[0] == items[1] == items[2]


@pytest.mark.parametrize("start", [0, 1, 5, 6])
def test_resuming_yields_exactly_the_tail(start):
    sampler = KeyedBatchSampler(50, 8, seed=4)
    sampler.set_epoch(3)
    whole = list(sampler)
    resumed = KeyedBatchSampler(50, 8, seed=4)
    resumed.set_epoch(3, start_step=start)
    assert len(resumed) == len(whole) - start
    assert list(resumed) == whole[start:]


def test_order_and_keys_change_with_seed_and_epoch():
    def epoch(seed: int, number: int) -> list[tuple[int, int]]:
        sampler = KeyedBatchSampler(100, 100, seed=seed)
        sampler.set_epoch(number)
        return _flat(sampler)

    assert epoch(0, 0) == epoch(0, 0)
    runs = [epoch(0, 0), epoch(0, 1), epoch(1, 0)]
    for a, b in itertools.combinations(runs, 2):
        assert [i for i, _ in a] != [i for i, _ in b]
        assert not {k for _, k in a} & {k for _, k in b}


def test_order_is_a_uniform_permutation():
    """Each of 8 indices is equally likely in each of 8 places over 4,000 epochs (chi-square, 49 d.o.f.)."""
    sampler = KeyedBatchSampler(8, 8, seed=11)
    seen = np.zeros((8, 8))
    for epoch in range(4000):
        sampler.set_epoch(epoch)
        for place, (index, _) in enumerate(_flat(sampler)):
            seen[index, place] += 1
    chi2 = ((seen - 500) ** 2 / 500).sum()
    assert 20 < chi2 < 90


@pytest.mark.parametrize(("call", "message"), [
    (lambda: KeyedBatchSampler(0, 4, 0), "n must be at least 1, got 0"),
    (lambda: KeyedBatchSampler(4, 0, 0), "batch_size must be at least 1, got 0"),
    (lambda: KeyedBatchSampler(9, 4, 0).set_epoch(0, start_step=3), r"start_step must lie in 0\.\.2 .*got 3"),
])  # fmt: skip
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
