"""Arithmetic in GF(2^n) for odd n, vectorised: what quadratic sign sets are computed with."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PRIMITIVE", "BinaryField", "binary_field"]

# Degree n -> a primitive polynomial over GF(2), bit i the coefficient of x^i.
PRIMITIVE = {
    1: 0b11,
    3: 0b1011,
    5: 0b100101,
    7: 0x83,
    9: 0x211,
    11: 0x805,
    13: 0x201B,
    15: 0x8003,
    17: 0x20009,
    19: 0x80027,
}


class BinaryField(NamedTuple):
    """GF(2^n); an element is the integer whose bits are its coordinates, so addition is XOR.

    Attributes:
        degree: n.
        exp: exp[i] = g^i of a generator g, (2^n - 1,) int64.
        log: Its inverse, (2^n,) int64; log[0] is unused.
    """

    degree: int
    exp: Tensor
    log: Tensor

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Products, elementwise with broadcasting."""
        product = self.exp[(self.log[a] + self.log[b]) % len(self.exp)]
        return torch.where((a == 0) | (b == 0), torch.zeros_like(product), product)

    def power(self, a: Tensor, exponent: int) -> Tensor:
        """a^exponent, elementwise, for an exponent of at least 1."""
        return torch.where(a == 0, torch.zeros_like(a), self.exp[self.log[a] * exponent % len(self.exp)])

    def trace(self, a: Tensor) -> Tensor:
        """Tr(a) = a + a^2 + a^4 + ... + a^(2^(n-1)), 0 or 1, elementwise."""
        total = torch.zeros_like(a)
        for i in range(self.degree):
            total ^= self.power(a, 2**i)
        return total


@lru_cache(maxsize=4)
def binary_field(degree: int) -> BinaryField:
    """GF(2^n) for odd n <= 19.

    >>> field = binary_field(3)
    >>> field.times(torch.tensor([2, 3, 0]), torch.tensor([4, 5, 6])).tolist()  # x x^2 = x + 1, ...
    [3, 4, 0]
    """
    powers, element = [], 1
    for _ in range(2**degree - 1):
        powers.append(element)
        element <<= 1
        if element >> degree:
            element ^= PRIMITIVE[degree]
    exp = torch.tensor(powers, device="cpu")
    log = torch.zeros(2**degree, dtype=torch.int64, device="cpu")
    log[exp] = torch.arange(len(exp), device="cpu")
    return BinaryField(degree, exp, log)
