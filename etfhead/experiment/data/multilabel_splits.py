"""Stratified splits of images that carry several labels at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.rng import hash_keys
from etfhead.experiment.data.splits import Indices, apportion

__all__ = ["iterative_split", "multilabel_limit"]

_SPLIT, _KEEP = 9, 10  # separate hash streams


def iterative_split(
    targets: Indices, shares: Sequence[float], seed: int, class_names: Sequence[str]
) -> Indices:
    """Which part every image goes to, such that each label is shared out like the images.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label
    data", ECML PKDD 2011): the label with the fewest images left is shared out first, each image to the
    part that still lacks that label most. Here the wanted numbers are whole, with at least one image of
    each label a part, and ties are broken by hash.

    Args:
        targets: (n, K) of 0 and 1.
        shares: One positive number a part, summing to 1.
        seed: Breaks ties and orders the images.
        class_names: K names, for messages.

    Returns:
        (n,) part of each image, 0..S-1.

    Raises:
        DataError: If a label that occurs cannot be in every part.

    Example:
        >>> targets = np.array([[1, 0], [1, 0], [1, 1], [0, 1]])
        >>> parts = iterative_split(targets, (0.5, 0.5), 0, ["a", "b"])
        >>> all(targets[parts == part].any(0).all() for part in range(2))
        True
    """
    count, parts = len(targets), len(shares)
    rank = hash_keys(np.arange(count), seed, _SPLIT)
    positives = targets.sum(0)
    for k in np.flatnonzero((positives > 0) & (positives < parts)).tolist():
        raise DataError(
            f"label {class_names[k]!r} has {positives[k]} image(s), expected at least {parts}, one a split; "
            "add images or remove the label"
        )
    ratio = np.asarray(shares, dtype=np.float64)
    wanted = np.zeros((targets.shape[1], parts))
    for k in np.flatnonzero(positives).tolist():
        wanted[k] = _seats(ratio, int(positives[k]))
    room = ratio * count
    out = np.full(count, -1, dtype=np.int64)
    left = positives.copy()
    order = np.argsort(rank, kind="stable")
    while left.any():
        k = int(np.argmin(np.where(left > 0, left, count + 1)))
        for i in order[(targets[order, k] == 1) & (out[order] < 0)]:
            out[i] = max(range(parts), key=lambda part: (wanted[k, part], room[part]))
            wanted[:, out[i]] -= targets[i]
            room[out[i]] -= 1
            left -= targets[i]
    for i in order[out[order] < 0]:  # no label
        out[i] = np.argmax(room)
        room[out[i]] -= 1
    for part in range(parts):
        for k in np.flatnonzero((positives > 0) & ~targets[out == part].any(0)).tolist():
            raise DataError(
                f"label {class_names[k]!r} ({positives[k]} images) is missing from a split of share "
                f"{shares[part]:g}: it only occurs beside rarer labels; choose another split_seed, give the "
                "splits yourself or remove the label"
            )
    return out


def _seats(ratio: np.ndarray, total: int) -> Indices:
    """``total`` images over the parts in proportion, at least one each."""
    return apportion(np.maximum(1, np.rint(ratio * 1e6)).astype(np.int64) * total, total)


def multilabel_limit(targets: Indices, limit: int, seed: int, class_names: Sequence[str]) -> Indices:
    """Sorted positions of ``limit`` images: every label set in proportion, every label at least once.

    Args:
        targets: (n, K) of 0 and 1.
        limit: Images to keep; all if there are no more.
        seed: Chooses which.
        class_names: K names, for messages.

    Raises:
        DataError: If so few images cannot show every label that occurs.

    Example:
        >>> multilabel_limit(np.eye(3, dtype=np.int64).repeat(4, axis=0), 6, 0, ["a", "b", "c"]) // 4
        array([0, 0, 1, 1, 2, 2])
    """
    count = len(targets)
    if limit >= count:
        return np.arange(count)
    order = _proportional_order(targets, seed)
    positives = targets.sum(0)
    kept: list[int] = []
    missing = positives > 0
    for k in np.argsort(positives, kind="stable"):
        if missing[k]:
            kept.append(int(order[targets[order, k] == 1][0]))
            missing &= targets[kept[-1]] == 0
    if len(kept) > limit:
        raise DataError(
            f"train_limit={limit} images cannot show each of {len(class_names)} labels, expected {len(kept)} "
            "or more; raise it or leave it unset"
        )
    others = order[~np.isin(order, kept)]
    return np.sort(np.concatenate([np.array(kept, dtype=np.int64), others[: limit - len(kept)]]))


def _proportional_order(targets: Indices, seed: int) -> Indices:
    """An order of the images whose every beginning holds each label set in proportion."""
    _, of_set = np.unique(targets, axis=0, return_inverse=True)
    of_set = of_set.reshape(-1)
    sizes = np.bincount(of_set)
    shuffled = np.argsort(hash_keys(np.arange(len(targets)), seed, _KEEP), kind="stable")
    by_set = shuffled[np.argsort(of_set[shuffled], kind="stable")]
    place = np.empty(len(targets))
    place[by_set] = np.arange(len(targets)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    offset = hash_keys(np.arange(len(sizes)), seed, _KEEP, 1) / 2.0**63
    return np.argsort((place + offset[of_set]) / sizes[of_set], kind="stable")
