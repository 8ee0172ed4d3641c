"""Inputs with real-valued targets, already in three splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError
from etfhead.experiment.data.duplicates import apart, hash_rows, label_conflicts
from etfhead.experiment.data.rng import hash_keys
from etfhead.experiment.data.splits import PARTS, TEST_FRACTION, TEST_SEED, Indices

__all__ = ["RegressionParts", "Samples", "draw_parts", "make_parts"]

_TEST, _VAL, _KEEP = range(40, 43)  # separate hash streams
_LEAST = 2  # samples of a split: R2 needs a variance


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows of a table, or images, with their targets.

    Args:
        inputs: (N, D) float64, or images (N, H, W) or (N, H, W, 3), uint8.
        targets: (N, n) float64.
    """

    inputs: npt.NDArray[Any]
    targets: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: npt.NDArray[Any]) -> Samples:
        """The samples at ``indices``, in that order."""
        return Samples(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True, eq=False)
class RegressionParts:
    """The three splits of a regression set.

    Args:
        train: Training split.
        val: Validation split.
        test: Test split.
        target_names: n names.
        root: Where the data came from, for the run folder.
        duplicates: Counts for the run folder.
        notes: Facts about the source that a reader of the report should know.
    """

    train: Samples
    val: Samples
    test: Samples
    target_names: tuple[str, ...]
    root: str
    duplicates: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether inputs are rows of numbers, not images."""
        return self.train.inputs.ndim == 2

    def limited(self, train_limit: int | None, seed: int) -> RegressionParts:
        """The same with ``train_limit`` samples of the training split, drawn by hash; ``None`` keeps all."""
        if train_limit is None or train_limit >= len(self.train):
            return self
        if train_limit < _LEAST:
            raise DataError(f"train_limit={train_limit}: expected at least {_LEAST} samples; raise it")
        order = np.argsort(hash_keys(np.arange(len(self.train)), seed, _KEEP), kind="stable")
        return replace(self, train=self.train.subset(np.sort(order[:train_limit])))

    def digest(self) -> str:
        """SHA-256 over target names, inputs and targets of the three splits."""
        digest = hashlib.sha256(json.dumps(self.target_names).encode())
        for part in (self.train, self.val, self.test):
            for array in (part.inputs, part.targets):
                digest.update(np.array([array.ndim, *array.shape], dtype="<i8").tobytes())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def draw_parts(count: int, val_fraction: float, split_seed: int, given: Indices | None = None) -> Indices:
    """Which split every sample goes to: 0 train, 1 validation, 2 test.

    Args:
        count: N.
        val_fraction: Share of what is not in the test split that validation takes.
        split_seed: Draws those. A fifth of all are the test split, the same for every seed.
        given: A split (N,) that is kept; what it leaves open is drawn: validation, if it has none.

    Raises:
        DataError: If a split would have fewer than two samples.

    Example:
        >>> np.bincount(draw_parts(100, 0.25, 0)).tolist()
        [60, 20, 20]
    """
    if given is None:
        order = np.argsort(hash_keys(np.arange(count), TEST_SEED, _TEST), kind="stable")
        part = np.zeros(count, dtype=np.int64)
        part[order[: max(_LEAST, round(TEST_FRACTION * count))]] = 2
    else:
        part = given.copy()
    if not (part == 1).any():
        rest = np.flatnonzero(part == 0)
        order = rest[np.argsort(hash_keys(rest, split_seed, _VAL), kind="stable")]
        part[order[: max(_LEAST, round(val_fraction * len(rest)))]] = 1
    sizes = np.bincount(part, minlength=3)
    for name, size in zip(PARTS, sizes.tolist(), strict=True):
        if size < _LEAST:
            raise DataError(
                f"{count} samples leave {size} to the {name} split, expected at least {_LEAST}; add samples "
                "or change val_fraction or the split"
            )
    return part


def make_parts(
    samples: Samples, part: Indices, target_names: Sequence[str], *, root: str, notes: tuple[str, ...] = ()
) -> RegressionParts:
    """The splits, without training samples whose input validation or test hold too, nor validation's in test.

    Only inputs are compared, bit for bit.

    Args:
        samples: All of them.
        part: (N,) 0 train, 1 validation, 2 test.
        target_names: n names.
        root: Where they came from.
        notes: Facts for the report.

    Raises:
        DataError: If a split is left with fewer than two samples.
    """
    prints = hash_rows(samples.inputs)
    of_train, of_val, of_test = ([prints[i] for i in np.flatnonzero(part == number)] for number in range(3))
    stay, stay_val, counts = apart(of_train, of_val, of_test, "samples")
    train, val, test = (np.flatnonzero(part == number) for number in range(3))
    train, val = train[stay], val[stay_val]
    for name, kept in zip(PARTS, (train, val, test), strict=True):
        if len(kept) < _LEAST:
            raise DataError(
                f"{root}: {len(kept)} sample(s) are left to the {name} split once inputs that another split "
                f"holds are removed, expected at least {_LEAST}; remove duplicates or change the split"
            )
    _, kinds = np.unique(samples.targets, axis=0, return_inverse=True)
    counts["inputs_with_conflicting_targets"] = label_conflicts(prints, kinds.reshape(-1).astype(np.int64))
    return RegressionParts(
        train=samples.subset(train),
        val=samples.subset(val),
        test=samples.subset(test),
        target_names=tuple(target_names),
        root=root,
        duplicates=counts,
        notes=notes,
    )
