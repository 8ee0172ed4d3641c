"""Sign vectors s_b that keep the rotated bases H diag(s_b) apart: quadratic forms over GF(2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etfhead.frames.gf2 import PRIMITIVE, binary_field

__all__ = ["quadratic_capacity", "quadratic_coherence", "quadratic_signs", "random_coherence"]


def _log2(order: int) -> int:
    m = order.bit_length() - 1
    if order < 1 or order != 2**m:
        raise ValueError(f"order={order}: expected a power of two, the length of the sign vectors")
    return m


def _field_degree(m: int) -> int:
    """Degree of the field that indexes sign vectors of length 2^m; 0 where there is one vector only."""
    n = m if m % 2 else m - 1
    return n if m > 1 and n in PRIMITIVE else 0


def _layers(m: int, count: int) -> int:
    """How many field elements it takes to index ``count`` sign vectors, at least 1."""
    return max(1, -(-(count - 1).bit_length() // _field_degree(m)))


def quadratic_capacity(order: int) -> int:
    """How many quadratic sign vectors of length 2^m there are: 2^(m (m - 1) / 2), one an alternating form.

    >>> quadratic_capacity(4), quadratic_capacity(8), quadratic_capacity(16)
    (2, 8, 64)
    """
    m = _log2(order)
    return 2 ** (m * (m - 1) // 2) if _field_degree(m) else 1


def quadratic_coherence(order: int, count: int) -> float:
    r"""Largest cosine between rows of two different bases H diag(s_b), b < count, of :func:`quadratic_signs`.

    .. math:: 2^{r-1} / \sqrt d \text{ for } d = 4^k, \qquad 2^{r-1} \sqrt{2/d} \text{ for } d = 2^{odd},

    with r = 1 up to d/2 (Kerdock) or d (Gold) vectors and one more for every further factor of as many. It is
    attained with both signs, also where only one row of the last basis is in use.

    >>> quadratic_coherence(64, 32), quadratic_coherence(64, 33), quadratic_coherence(128, 128)
    (0.125, 0.25, 0.125)
    """
    m = _log2(order)
    return 2.0 ** (_layers(m, count) - 1 + m % 2 / 2) / math.sqrt(order) if count > 1 else 0.0


def quadratic_signs(order: int, count: int) -> Tensor:
    r"""The first ``count`` sign vectors (-1)^{f_b(x)} of the Delsarte-Goethals sets, s_0 = 1.

    .. math:: f_b(x) = \sum_{i=1}^{r} \mathrm{Tr}(b_i x^{2^i+1}), \quad x \in GF(2^m), \; m \text{ odd}
    .. math:: f_b(x, \epsilon) = \sum_{i=1}^{(n-1)/2} \mathrm{Tr}((b_0 x)^{2^i+1})
              + \epsilon\,\mathrm{Tr}(b_0 x) + \sum_{i=1}^{r-1} \mathrm{Tr}(b_i x^{2^i+1}),
              \quad x \in GF(2^n), \; m = n + 1 \text{ even}

    The b_i are the r digits of b in base 2^n (n = m for odd m). The product of two sign vectors is (-1) to a
    quadratic form of rank q, whose Walsh coefficients are 0 and +-2^(m - q/2); no set of as many forms has
    larger ranks. r = 1 is the Kerdock set (Kerdock, Information and Control 20, 1972) for even m and the Gold
    set (Gold, IEEE Trans. Inf. Theory 14, 1968) for odd m; the others are from Delsarte & Goethals,
    J. Combin. Theory A 19, 1975. H is the Sylvester-Hadamard matrix in natural order, whose rows are the
    linear forms of the bits of the column index.

    Args:
        order: d, a power of two.
        count: How many, at most :func:`quadratic_capacity` of d.

    Returns:
        Tensor: (count, d) int8, entries +-1.

    Raises:
        ValueError: If the order is no power of two or ``count`` is beyond the capacity.

    >>> quadratic_signs(4, 2).tolist()
    [[1, 1, 1, 1], [1, 1, 1, -1]]
    """
    m = _log2(order)
    if not 1 <= count <= (capacity := quadratic_capacity(order)):
        raise ValueError(
            f"count={count}: expected 1 to {capacity}, the quadratic sign vectors of length {order}"
        )
    if count == 1:
        return torch.ones(1, order, dtype=torch.int8, device="cpu")
    n = _field_degree(m)
    field, x = binary_field(n), torch.arange(2**n, device="cpu")
    trace = field.trace(x)
    b = torch.arange(count, device="cpu")[:, None]
    digits = [b >> (n * i) & (2**n - 1) for i in range(_layers(m, count))]
    form = torch.zeros(count, 2**n, dtype=torch.int64, device="cpu")
    for i, digit in enumerate(digits if m % 2 else digits[1:], start=1):
        form ^= trace[field.times(digit, field.power(x, 2**i + 1))]
    if m % 2 == 0:
        kerdock = torch.zeros_like(x)
        for i in range(1, (n + 1) // 2):
            kerdock ^= trace[field.power(x, 2**i + 1)]
        scaled = field.times(digits[0], x)
        form ^= kerdock[scaled]
        form = torch.cat([form, form ^ trace[scaled]], dim=1)
    return (1 - 2 * form).to(torch.int8)


def random_coherence(order: int, count: int) -> float:
    r"""Estimated largest cosine between rows of ``count`` bases H diag(s_b) with random signs; 0 for one.

    .. math:: \bigl(u - (\ln \ln n + \ln 4\pi) / 2u\bigr) / \sqrt d, \qquad u = \sqrt{2 \ln n}

    The mean largest of n normal variables of variance 1/d: each pair of bases has d different cosines.

    >>> round(random_coherence(256, 20), 2)
    0.26
    """
    if count <= 1:
        return 0.0
    cosines = max(8, order * count * (count - 1) // 2)
    u = math.sqrt(2 * math.log(cosines))
    largest = u - (math.log(math.log(cosines)) + math.log(4 * math.pi)) / (2 * u)
    return min(1.0, largest / math.sqrt(order))
