"""Stratified splits that depend on nothing but the labels and a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError
from etfhead.experiment.data.rng import hash_keys

__all__ = [
    "PARTS",
    "TEST_FRACTION",
    "TEST_SEED",
    "Indices",
    "apportion",
    "class_members",
    "stratified_holdout",
    "stratified_limit",
]

Indices = npt.NDArray[np.int64]

PARTS = ("train", "val", "test")

# Of data sets without a test part of their own; the same part for every split_seed.
TEST_FRACTION = 0.2
TEST_SEED = 0

_HOLDOUT, _LIMIT = 3, 4  # separate hash streams


def class_members(labels: Indices, num_classes: int, *salts: int) -> list[Indices]:
    """Positions of each class in an order drawn by hash."""
    order = np.argsort(hash_keys(np.arange(len(labels)), *salts), kind="stable")
    return [order[labels[order] == k] for k in range(num_classes)]


def stratified_holdout(
    labels: Indices, fraction: float, seed: int, class_names: Sequence[str]
) -> tuple[Indices, Indices]:
    """Positions that stay and positions that are held out, each sorted.

    Every class gives ``round(fraction * n_class)`` images, at least one.

    Args:
        labels: (n,) class indices.
        fraction: Share to hold out, in (0, 1).
        seed: Chooses which images.
        class_names: One name a class, for messages.

    Raises:
        DataError: If a class would be left without an image on either side.

    Example:
        >>> stay, held = stratified_holdout(np.array([0, 0, 0, 0, 1, 1]), 0.25, 0, ["a", "b"])
        >>> len(stay), len(held)
        (4, 2)
    """
    held = []
    for name, members in zip(
        class_names, class_members(labels, len(class_names), seed, _HOLDOUT), strict=True
    ):
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            side = "training" if len(members) else "training or validation"
            raise DataError(
                f"val_fraction={fraction} leaves class {name!r} ({len(members)} image(s)) without "
                f"{side} images; lower val_fraction, add images or remove the class"
            )
        held.append(members[:count])
    out = np.sort(np.concatenate(held))
    stay = np.setdiff1d(np.arange(len(labels)), out, assume_unique=True)
    return stay, out


def apportion(counts: Indices, total: int) -> Indices:
    """Share ``total`` seats among classes in proportion to ``counts``.

    Hamilton's method (whole quotas, then the largest remainders) with at least one seat a class and at
    most its count.

    Args:
        counts: (K,) positive images a class.
        total: Seats, between K and ``counts.sum()``.

    Example:
        >>> apportion(np.array([90, 9, 1]), 10).tolist()
        [8, 1, 1]
    """
    quota = counts * (total / counts.sum())
    seats = np.maximum(1, np.floor(quota)).astype(np.int64)
    while seats.sum() != total:
        step = 1 if seats.sum() < total else -1
        open_to = seats < counts if step > 0 else seats > 1
        gap = np.where(open_to, step * (quota - seats), -np.inf)
        seats[np.argmax(gap)] += step
    return seats


def stratified_limit(labels: Indices, limit: int, seed: int, num_classes: int) -> Indices:
    """Sorted positions of a stratified subset of ``limit`` images, or of all when there are no more.

    Args:
        labels: (n,) class indices, every class present.
        limit: Images to keep.
        seed: Chooses which images.
        num_classes: Number of classes.

    Raises:
        DataError: If ``limit`` is smaller than the number of classes.
    """
    if limit < num_classes:
        raise DataError(
            f"train_limit must be at least the number of classes ({num_classes}), got {limit}; "
            "raise it or leave it unset"
        )
    if limit >= len(labels):
        return np.arange(len(labels))
    seats = apportion(np.bincount(labels, minlength=num_classes), limit)
    members = class_members(labels, num_classes, seed, _LIMIT)
    return np.sort(np.concatenate([m[:seat] for m, seat in zip(members, seats, strict=True)]))
