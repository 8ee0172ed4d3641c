import math

import pytest
import torch

from etfhead.frames.orthogonal_factors import hadamard_matrix
from etfhead.frames.sign_sets import (
    quadratic_capacity,
    quadratic_coherence,
    quadratic_signs,
    random_coherence,
)
from etfhead.frames.union import UnionFrame


def cross_cosines(signs):
    """All cosines between rows of different bases H diag(s_b), as (pairs, d, d)."""
    d = signs.shape[1]
    H = hadamard_matrix(d)
    bases = [H * s / math.sqrt(d) for s in signs.double()]
    return torch.stack([a @ b.T for i, a in enumerate(bases) for b in bases[:i]])


@pytest.mark.parametrize("d", [4, 16, 64])
def test_kerdock_bases_are_mutually_unbiased(d):
    cosines = cross_cosines(quadratic_signs(d, d // 2))
    torch.testing.assert_close(cosines.abs(), torch.full_like(cosines, 1 / math.sqrt(d)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("d", [8, 32])
def test_gold_bases_have_cosines_of_0_and_sqrt_2_over_d(d):
    cosines = cross_cosines(quadratic_signs(d, d)).abs()
    c = math.sqrt(2 / d)
    assert torch.minimum(cosines, (cosines - c).abs()).max() < 1e-12
    assert cosines.max() == pytest.approx(c)


@pytest.mark.parametrize(
    ("d", "count"), [(8, 8), (16, 8), (16, 9), (16, 17), (16, 64), (32, 33), (32, 64), (64, 33), (64, 65)]
)
def test_coherence_is_exact_for_every_number_of_bases(d, count):
    cosines = cross_cosines(quadratic_signs(d, count))
    assert cosines.abs().max().item() == pytest.approx(quadratic_coherence(d, count), abs=1e-12)
    assert cosines.max().item() == pytest.approx(quadratic_coherence(d, count), abs=1e-12)


@pytest.mark.parametrize(
    ("d", "count"), [(256, 128), (256, 129), (1024, 512), (1024, 600), (128, 128), (512, 512), (512, 600)]
)
def test_coherence_of_larger_sets_by_walsh_spectra(d, count):
    # <H_i s_a, H_j s_b> is the Walsh coefficient of s_a s_b at i xor j.
    signs, H = quadratic_signs(d, count).double(), hadamard_matrix(d)
    worst = 0.0
    for b in (0, 1, count // 3, count - 1):
        spectrum = (signs * signs[b]) @ H / d
        spectrum[b] = 0
        worst = max(worst, spectrum.abs().max().item())
    assert worst == pytest.approx(quadratic_coherence(d, count), abs=1e-12)


def test_sign_vectors_are_distinct_signs_that_start_with_ones():
    signs = quadratic_signs(32, 1024)
    assert signs.dtype == torch.int8
    assert signs.abs().eq(1).all()
    assert signs[0].eq(1).all()
    assert len(signs.unique(dim=0)) == 1024
    assert torch.equal(quadratic_signs(32, 40), signs[:40])  # more classes change no earlier vector


@pytest.mark.parametrize(("order", "capacity"), [(1, 1), (2, 1), (4, 2), (8, 8), (16, 64), (64, 2**15)])
def test_capacity_is_the_number_of_alternating_forms(order, capacity):
    assert quadratic_capacity(order) == capacity
    assert len(quadratic_signs(order, min(capacity, 64))) == min(capacity, 64)
    if capacity < 100:
        with pytest.raises(ValueError, match=f"count={capacity + 1}: expected 1 to {capacity}"):
            quadratic_signs(order, capacity + 1)


@pytest.mark.parametrize("order", [0, 3, 12])
def test_orders_are_powers_of_two(order):
    with pytest.raises(ValueError, match=f"order={order}: expected a power of two"):
        quadratic_signs(order, 1)


def test_one_basis_has_no_coherence():
    assert quadratic_coherence(64, 1) == 0
    assert quadratic_capacity(2**30) == 1  # no field of that degree is listed


@pytest.mark.parametrize(("d", "count"), [(64, 20), (96, 30), (256, 8), (512, 4)])
def test_random_coherence_estimates_what_random_signs_have(d, count):
    measured = [
        UnionFrame(d * count, d, signs="random", seed=seed).coherence().max_cosine for seed in range(3)
    ]
    assert random_coherence(d, count) == pytest.approx(sum(measured) / 3, rel=0.15)


def test_random_coherence_of_few_cosines_is_a_cosine():
    assert random_coherence(1, 2) == random_coherence(2, 5) == 1
    assert random_coherence(64, 1) == 0
