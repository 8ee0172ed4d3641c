"""Randomness addressed by number: a hash that never changes, and generators that are put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["hash_keys", "preserved_rng", "seed_all", "splitmix64"]

_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function, a bijection of the 64-bit integers that scatters neighbours.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. It is used in
    place of a library's generator because orders and keys must stay the same across library versions.

    Args:
        values: Unsigned integers of any shape.

    Example:
        >>> hex(splitmix64(np.zeros(1, dtype=np.uint64))[0])
        '0xe220a8397b1dcdaf'
    """
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(_GAMMA)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def hash_keys(indices: npt.ArrayLike, *salts: int) -> npt.NDArray[np.int64]:
    """Keys in [0, 2^63), one an index: ``mix(... mix(mix(salt_1) + salt_2) ... + index)``.

    For fixed salts two indices never share the 64-bit hash; one bit is dropped so that a key is a valid
    seed of every generator.

    Args:
        indices: Integers of any shape.
        salts: Integers of any sign that choose the stream, such as a seed and an epoch.

    Example:
        >>> hash_keys([0, 1], 7, 0).tolist() == hash_keys([0, 1], 7, 1).tolist()
        False
    """
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for salt in salts:
            state = splitmix64(state + np.uint64(salt % 2**64))
        mixed = splitmix64(state + np.asarray(indices).astype(np.uint64))
    return (mixed >> np.uint64(1)).astype(np.int64)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Put the global generators of Python, NumPy and torch (CPU) back when the block ends."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)


def seed_all(key: int) -> None:
    """Seed Python, NumPy and torch (CPU only, so that no worker touches CUDA) from one key.

    Args:
        key: Integer in [0, 2^63).
    """
    random.seed(key)
    np.random.seed([key & 0xFFFFFFFF, key >> 32])
    torch.default_generator.manual_seed(key)
