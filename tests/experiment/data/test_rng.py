from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from etfhead.experiment.data.rng import hash_keys, preserved_rng, seed_all, splitmix64


def _reference(value: int) -> int:
    """SplitMix64 in Python integers, from the published constants."""
    z = (value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_splitmix64_matches_its_definition():
    values = [0, 1, 2, 12345, 2**63, 2**64 - 1]
    assert splitmix64(np.array(values, dtype=np.uint64)).tolist() == [_reference(v) for v in values]


def test_splitmix64_gives_the_published_sequence():
    # Seed 1234567, the test vector that accompanies Vigna's C code on Rosetta Code.
    state = [(1234567 + i * 0x9E3779B97F4A7C15) % 2**64 for i in range(3)]
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(np.array(state, dtype=np.uint64)).tolist() == expected


def test_hash_keys_is_the_stated_chain_and_fits_every_generator():
    expected = [_reference((_reference((_reference(7) + 3) % 2**64) + i) % 2**64) >> 1 for i in range(50)]
    keys = hash_keys(np.arange(50), 7, 3)
    assert keys.tolist() == expected
    for key in keys.tolist():
        seed_all(key)


def test_keys_do_not_collide_over_seeds_and_epochs():
    keys = [hash_keys(np.arange(2000), seed, epoch) for seed in (-1, 0, 1, 2) for epoch in range(10)]
    assert len(np.unique(np.concatenate(keys))) == 4 * 10 * 2000


def test_neighbouring_indices_get_unrelated_keys():
    bits = hash_keys(np.arange(20_001), 0, 0)
    flips = np.array([int(changed).bit_count() for changed in bits[1:] ^ bits[:-1]])
    # 63 fair coins: mean 31.5, standard error of 20,000 draws 0.028
    assert flips.mean() == pytest.approx(31.5, abs=0.15)


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def _disturb_and_fail() -> None:
    with preserved_rng():
        seed_all(99)
        _draw()
        1 / 0  # noqa: B018 - only the error matters


def test_preserved_rng_restores_all_generators_even_after_an_error():
    seed_all(5)
    expected = [_draw(), _draw()]
    seed_all(5)
    first = _draw()
    with pytest.raises(ZeroDivisionError):
        _disturb_and_fail()
    assert [first, _draw()] == expected
