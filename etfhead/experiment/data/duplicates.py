"""Images that occur more than once, found by hashing their bytes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from etfhead.errors import DataError
from etfhead.experiment.data.images import ArrayImages, FileImages, Images

__all__ = ["apart", "fingerprints", "hash_rows", "label_conflicts", "shared_with"]


def hash_rows(array: npt.NDArray[Any]) -> list[bytes]:
    """One byte string an entry along the first axis, equal exactly where the entries are."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in array]


def _hash_files(images: FileImages, repeated: npt.NDArray[np.int64]) -> list[bytes]:
    prints = []
    twins = np.isin(images.sizes, repeated)
    rows = zip(images.paths, twins, strict=True)
    progress = tqdm(
        rows, total=len(images), desc="look for duplicates", unit="img", disable=None, leave=False
    )
    for path, may_repeat in progress:
        if not may_repeat:
            prints.append(os.fsencode(f"{images.root}/{path}"))
            continue
        try:
            with (images.root / path).open("rb") as file:
                prints.append(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"cannot read image {images.root / path}: {error}") from error
    return prints


def fingerprints(train: Images, test: Images) -> tuple[list[bytes], list[bytes]]:
    """One byte string an image, equal exactly where images are duplicates.

    Images in memory are compared by pixels, files by content; a file whose size no other file has is
    unique and is not read.

    Args:
        train: Training part.
        test: Test part, of the same kind.
    """
    if isinstance(train, ArrayImages) and isinstance(test, ArrayImages):
        return hash_rows(train.pixels), hash_rows(test.pixels)
    if isinstance(train, FileImages) and isinstance(test, FileImages):
        sizes, counts = np.unique(np.concatenate([train.sizes, test.sizes]), return_counts=True)
        repeated = sizes[counts > 1]
        return _hash_files(train, repeated), _hash_files(test, repeated)
    raise TypeError(f"train and test must be of one kind, got {type(train).__name__}, {type(test).__name__}")


def shared_with(prints: Iterable[bytes], others: Iterable[bytes]) -> npt.NDArray[np.bool_]:
    """Mask of the images in ``prints`` that also occur in ``others``."""
    known = set(others)
    return np.array([item in known for item in prints], dtype=bool)


def apart(
    train: list[bytes], val: list[bytes], test: list[bytes], item: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, int]]:
    """Which items stay so that no two splits share one: they leave training first, then validation.

    Args:
        train: Prints of the training split.
        val: Prints of the validation split.
        test: Prints of the test split, which keeps all.
        item: What they are, in a word, for the counts.

    Returns:
        Masks of the training and the validation split, and counts for the run folder.

    Example:
        >>> apart([b"x", b"y", b"z"], [b"y", b"x"], [b"x"], "images")[0].tolist()
        [False, False, True]
    """
    val_in_test, train_in_test = shared_with(val, test), shared_with(train, test)
    train_in_val = shared_with(train, val) & ~train_in_test
    counts = {
        f"train_{item}_removed_as_in_test": int(train_in_test.sum()),
        f"train_{item}_removed_as_in_val": int(train_in_val.sum()),
        f"val_{item}_removed_as_in_test": int(val_in_test.sum()),
    }
    return ~(train_in_test | train_in_val), ~val_in_test, counts


def label_conflicts(prints: Iterable[bytes], labels: npt.NDArray[np.int64]) -> int:
    """Number of distinct images that occur with more than one label; they bound any accuracy.

    Example:
        >>> label_conflicts([b"x", b"x", b"y"], np.array([0, 1, 0]))
        1
    """
    seen: dict[bytes, set[int]] = defaultdict(set)
    for item, label in zip(prints, labels.tolist(), strict=True):
        seen[item].add(label)
    return sum(len(kinds) > 1 for kinds in seen.values())
