"""Several small images on one canvas, for data whose label sets are balanced by construction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from etfhead.experiment.data.images import ArrayImages
from etfhead.experiment.data.rng import hash_keys
from etfhead.experiment.data.splits import Indices

__all__ = ["balanced_targets", "compose"]

_QUADRANTS = 4
_PLACE, _ROW, _COLUMN, _SOURCE = range(11, 15)  # separate hash streams


def balanced_targets(num_classes: int, images_per_set: Sequence[int]) -> Indices:
    """Every set of m different classes equally often, for each m.

    Args:
        num_classes: K.
        images_per_set: Images of each set of 1, 2, 3, ... classes; at most four classes, 0 leaves an m out.

    Returns:
        (N, K) of 0 and 1, sets in lexicographic order, small ones first.

    Raises:
        ValueError: If a count is negative, none is positive, or there are more than four or K.

    Example:
        >>> balanced_targets(3, (1, 2)).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1]]
    """
    most = min(_QUADRANTS, num_classes)
    if not 1 <= len(images_per_set) <= most or min(images_per_set) < 0 or max(images_per_set) == 0:
        raise ValueError(
            f"images_per_set: expected 1 to {most} counts of 0 or more, one a number of labels, not all 0; "
            f"got {tuple(images_per_set)}"
        )
    blocks = []
    for labels, each in enumerate(images_per_set, start=1):
        sets = np.array(list(combinations(range(num_classes), labels)))
        rows = np.zeros((len(sets), num_classes), dtype=np.int64)
        np.put_along_axis(rows, sets, 1, axis=1)
        blocks.append(rows.repeat(each, axis=0))
    return np.concatenate(blocks)


def compose(source: ArrayImages, targets: Indices, *, cell: int, seed: int) -> ArrayImages:
    """One canvas of 2 x 2 cells for each row of targets, with one source image of every label in it.

    Which cell, where in the cell and which source image are drawn by hash of the position. The images of a
    class are used in turn, in a new order each round, so all of them equally often; cells do not overlap.

    Args:
        source: Grey images (n, h, w) not larger than a cell, one class each.
        targets: (N, K) of 0 and 1, at most four ones a row.
        cell: Side of a cell in pixels.
        seed: Draws everything.

    Returns:
        ArrayImages: (N, 2 cell, 2 cell) uint8 on black, with ``targets`` as labels.

    Raises:
        ValueError: If images do not fit, a row has more than four labels, or a label has no source image.
    """
    height, width = source.pixels.shape[1:]
    if source.pixels.ndim != 3 or max(height, width) > cell:
        raise ValueError(f"source: expected grey images of at most {cell}x{cell}, got {source.pixels.shape}")
    if len(targets) and targets.sum(1).max() > _QUADRANTS:
        raise ValueError(f"targets: expected at most {_QUADRANTS} labels a row, got {targets.sum(1).max()}")
    canvases = np.zeros((len(targets), 2 * cell, 2 * cell), dtype=np.uint8)
    slots = np.arange(len(targets) * _QUADRANTS).reshape(-1, _QUADRANTS)
    quadrant = np.argsort(hash_keys(slots, seed, _PLACE), axis=1)
    down = hash_keys(slots, seed, _ROW) % (cell - height + 1)
    right = hash_keys(slots, seed, _COLUMN) % (cell - width + 1)
    slot = np.cumsum(targets, axis=1) - 1  # the first label of a row takes its first cell
    for k in range(targets.shape[1]):
        rows = np.flatnonzero(targets[:, k])
        drawn = _in_turn(np.flatnonzero(source.labels == k), len(rows), seed, k)
        for i, image in zip(rows, drawn, strict=True):
            at = slot[i, k]
            top = cell * (quadrant[i, at] // 2) + down[i, at]
            left = cell * (quadrant[i, at] % 2) + right[i, at]
            canvases[i, top : top + height, left : left + width] = source.pixels[image]
    return ArrayImages(canvases, targets)


def _in_turn(members: Indices, count: int, seed: int, label: int) -> Indices:
    """``count`` of the members, each once in a round, every round in another order."""
    if count and not len(members):
        raise ValueError(f"source: class {label} has no image, but targets ask for it")
    rounds = -(-count // max(len(members), 1))
    orders = [
        members[np.argsort(hash_keys(members, seed, _SOURCE, label, turn), kind="stable")]
        for turn in range(rounds)
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *orders])[:count]
