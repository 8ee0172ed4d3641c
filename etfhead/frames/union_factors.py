"""What a union of bases is made of: a transform as two factors, and the signs of each basis."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.frames.distinct_signs import distinct_signs, random_signs
from etfhead.frames.orthogonal_factors import orthogonal_factor
from etfhead.frames.sign_sets import quadratic_signs

__all__ = ["kronecker_factors", "sign_vectors"]


def kronecker_factors(in_features: int, left: int, *, sylvester: bool) -> tuple[Tensor, Tensor]:
    """T = A kron B with A of order ``left`` and B of d / ``left``, float64.

    Args:
        in_features: d.
        left: Order of A, a divisor of d.
        sylvester: Take Sylvester's Hadamard matrices up to an odd part, as quadratic signs need them.
    """

    def factor(order: int) -> Tensor:
        if not sylvester:
            return orthogonal_factor(order)
        power = order & -order  # orthogonal_factor doubles powers of two as Sylvester did
        return torch.kron(orthogonal_factor(order // power), orthogonal_factor(power))

    return factor(left), factor(in_features // left)


def sign_vectors(
    in_features: int, left: int, blocks: int, *, quadratic: bool, antipodal: bool, seed: int
) -> tuple[Tensor, Tensor]:
    """D, (d,), and s_b as rows, (blocks, d), int8.

    Args:
        in_features: d.
        left: Order of the transform's first factor.
        blocks: How many bases.
        quadratic: From quadratic forms; random ones otherwise.
        antipodal: No vector may be another one's negative, as random ones could.
        seed: Of D and of random signs.
    """
    d, generator = in_features, torch.Generator("cpu").manual_seed(seed)
    flip = random_signs(1, d, generator)[0]
    if not quadratic:
        factors = kronecker_factors(d, left, sylvester=False)
        return flip, distinct_signs(*factors, blocks, antipodal=antipodal, generator=generator)
    # T's index is (odd part, bits) of the left factor, then of the right one; forms see the bits alone.
    right = d // left
    bits = (left & -left, right & -right)
    signs = quadratic_signs(d & -d, blocks).view(-1, 1, bits[0], 1, bits[1])
    signs = signs.expand(-1, left // bits[0], -1, right // bits[1], -1).reshape(-1, d)
    # Forms and Hadamard rows begin with +1: without a sign a basis, which keeps all cosines' sizes, that
    # feature would be the same in every class vector, where cross-entropy could not see it.
    return flip, signs * random_signs(blocks, 1, generator)
