"""Long-tailed training splits: how many images each class keeps, which are rare, which images stay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.rng import hash_keys
from etfhead.experiment.data.splits import Indices, class_members

__all__ = ["KINDS", "class_order", "long_tail_counts", "long_tail_indices"]

KINDS = ("exponential", "step")
_ORDER, _IMAGES = 7, 8  # hash streams beside those of the splits
_ROUNDING = 1e-9  # 500 / 100 ** 1.0 must not become 4


def long_tail_counts(
    num_classes: int, largest: int, factor: float, kind: str = "exponential"
) -> tuple[int, ...]:
    r"""Images of each class of a long tail, the most frequent class first.

    .. math:: n_k = \lfloor n_0\, \rho^{-k / (K - 1)} \rfloor, \qquad k = 0, \dots, K - 1

    CIFAR-LT's rule (Cui et al. 2019, arXiv 1901.05555; Cao et al. 2019, arXiv 1906.07413), with the
    imbalance factor rho = n_0 / n_(K-1). ``step`` gives n_0 to the first half of the classes and n_0 / rho to
    the others (Buda et al. 2018, arXiv 1710.05381), which are one more where K is odd.

    Args:
        num_classes: K, at least 2.
        largest: n_0, images of the most frequent class.
        factor: rho, at least 1; 1 keeps n_0 images of every class.
        kind: ``"exponential"`` or ``"step"``.

    Returns:
        tuple: K counts, falling.

    Raises:
        ValueError: If an argument is out of range, or the rarest class would have no image.

    >>> long_tail_counts(10, 5000, 100)
    (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    >>> sum(long_tail_counts(10, 5000, 100)), sum(long_tail_counts(100, 500, 100))
    (12406, 10847)
    >>> long_tail_counts(5, 60, 20, "step")
    (60, 60, 3, 3, 3)
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: expected at least 2, for one class has no imbalance")
    if largest < 1:
        raise ValueError(f"largest={largest}: expected at least one image of the most frequent class")
    if not 1.0 <= factor < math.inf:
        raise ValueError(
            f"factor={factor}: expected the largest class over the smallest, a number >= 1; 1 is balanced"
        )
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected {' or '.join(KINDS)}")
    if kind == "step":
        exponents = [float(k >= num_classes // 2) for k in range(num_classes)]
    else:
        exponents = [k / (num_classes - 1) for k in range(num_classes)]
    counts = tuple(int(largest / factor**exponent + _ROUNDING) for exponent in exponents)
    if counts[-1] < 1:
        raise ValueError(
            f"factor={factor:g} leaves the rarest class without an image, of {largest} in the largest; "
            f"expected a factor of at most {largest}"
        )
    return counts


def class_order(num_classes: int, order: str, seed: int) -> tuple[int, ...]:
    """The classes from frequent to rare.

    Args:
        num_classes: K.
        order: ``"file"``: class 0 is the most frequent, CIFAR-LT's convention. ``"drawn"``: by the seed.
        seed: Of the draw.

    Raises:
        ValueError: If ``order`` is neither.

    >>> class_order(4, "file", 0), sorted(class_order(4, "drawn", 0))
    ((0, 1, 2, 3), [0, 1, 2, 3])
    """
    if order == "file":
        return tuple(range(num_classes))
    if order != "drawn":
        raise ValueError(f"order={order!r}: expected file or drawn")
    keys = hash_keys(np.arange(num_classes), seed, _ORDER)
    return tuple(np.argsort(keys, kind="stable").tolist())


def long_tail_indices(labels: Indices, counts: Sequence[int], order: Sequence[int], seed: int) -> Indices:
    """Positions of a long-tailed subset, sorted.

    The images of a class come in an order that the seed draws, so a smaller count is a part of a larger one.

    Args:
        labels: (n,) classes.
        counts: Images to keep by rank, K numbers (:func:`long_tail_counts`).
        order: The class of each rank (:func:`class_order`).
        seed: Chooses the images.

    Raises:
        DataError: If a class has fewer images than its count.
        ValueError: If ``order`` is no order of as many classes as there are counts.

    >>> labels = np.array([0, 1, 0, 1, 0, 1])
    >>> labels[long_tail_indices(labels, [3, 1], [1, 0], seed=0)].tolist().count(1)
    3
    """
    K = len(counts)
    if sorted(order) != list(range(K)):
        raise ValueError(f"order: expected the classes 0 to {K - 1}, each once, got {list(order)}")
    members = class_members(labels, K, seed, _IMAGES)
    for rank, k in enumerate(order):
        if len(members[k]) < counts[rank]:
            raise DataError(
                f"class {k} has {len(members[k])} training images and rank {rank} of the long tail needs "
                f"{counts[rank]}; lower imbalance_max"
            )
    kept = [members[k][: counts[rank]] for rank, k in enumerate(order)]
    return np.sort(np.concatenate(kept))
