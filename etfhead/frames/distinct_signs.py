"""Random sign vectors s_b such that no two of the bases T diag(s_b) have a row in common."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distinct_signs", "random_signs"]

# Signs of up to this many features are the bits of an integer, beside 6 bits for the row's absolute values.
# Beyond, a repetition among a million random vectors has a chance below one in a hundred.
_WIDEST = 56
_ROUNDS = 200


def random_signs(count: int, order: int, generator: torch.Generator) -> Tensor:
    """Random signs, (count, order) int8, from integers: the same on any machine."""
    bits = torch.randint(0, 2, (count, order), generator=generator, dtype=torch.int8, device="cpu")
    return 1 - 2 * bits


def distinct_signs(
    left: Tensor, right: Tensor, count: int, *, antipodal: bool, generator: torch.Generator
) -> Tensor:
    """Random sign vectors s_b; where (A kron B) diag(s_b) repeats an earlier row, s_b is drawn anew.

    With few features random signs repeat: of 10 bases in R^8 two are likely the same, and classes that
    share a vector cannot be told apart.

    Args:
        left: A, (a, a).
        right: B, (b, b), with a b = d.
        count: How many.
        antipodal: Whether the negatives of the rows belong to a basis too.
        generator: Where signs come from.

    Returns:
        Tensor: (count, d) int8.

    Raises:
        ValueError: If there are not as many, or they were not found.

    >>> one, T = torch.ones(1, 1), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> signs = distinct_signs(one, T, 2, antipodal=False, generator=torch.Generator().manual_seed(0))
    >>> len((signs[:, None] * T).flatten(0, 1).unique(dim=0))  # both bases: (1, 1), (1, -1) and negatives
    4
    """
    order = len(left) * len(right)
    signs = random_signs(count, order, generator)
    if count == 1 or order > _WIDEST:
        return signs
    entries = torch.kron(left, right).round(decimals=9)  # a DCT's zeros have no sign
    bits = 2 ** torch.arange(order, device="cpu")
    negative, filled = ((entries < 0).long() @ bits, (entries != 0).long() @ bits)
    kind, rows = entries.abs().unique(dim=0, return_inverse=True, return_counts=True)[1:]
    possible = 2.0 ** (entries != 0).sum(1) / (2 if antipodal else 1)
    rounds = 0 if (count * rows[kind] > possible).any() else _ROUNDS
    for _ in range(rounds):
        vectors = (((signs < 0).long() @ bits)[:, None] ^ negative) & filled
        if antipodal:
            vectors = torch.minimum(vectors, vectors ^ filled)
        seen = (vectors + (kind << order)).flatten().sort(stable=True)
        later = seen.indices[1:][seen.values[1:] == seen.values[:-1]]
        if not len(later):
            return signs
        again = (later // order).unique()
        signs[again] = random_signs(len(again), order, generator)
    raise ValueError(
        f"num_classes takes {count} bases at in_features={order}, and found were not as many that give each "
        'class a vector of its own; take frame="code", "class_means" from data, or wider features (a '
        "projection neck in front)"
    )
