"""The training and validation positions of a source, without images that also occur elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError
from etfhead.experiment.data.duplicates import apart, fingerprints, label_conflicts, shared_with
from etfhead.experiment.data.images import ArrayImages, Images, Source
from etfhead.experiment.data.splits import Indices, stratified_holdout, stratified_limit

__all__ = ["Carved", "carve"]


@dataclass(frozen=True, eq=False)
class Carved:
    """What ``carve`` decided.

    Args:
        train: Positions in the training part, sorted.
        val: Positions in the training part, sorted, none of them in ``train``.
        duplicates: Counts for the run folder.
        digest: SHA-256 over class names, positions, labels and contents (of files: paths and sizes).
    """

    train: Indices
    val: Indices
    duplicates: dict[str, int]
    digest: str


def _digest(source: Source, parts: list[tuple[Images, list[bytes], Indices]]) -> str:
    digest = hashlib.sha256(json.dumps(source.class_names).encode())
    for images, prints, indices in parts:
        digest.update(np.array([len(indices), *indices, *images.labels[indices]], dtype="<i8").tobytes())
        for i in indices:
            if isinstance(images, ArrayImages):
                digest.update(prints[i])
            else:
                digest.update(os.fsencode(f"{images.paths[i]}\n{images.sizes[i]}\n"))
    return digest.hexdigest()


def carve(source: Source, *, val_fraction: float, seed: int, train_limit: int | None = None) -> Carved:
    """Carve a stratified validation split from the training part; the test part is never touched.

    An image that also occurs in the test part leaves the training part; a validation image that also
    occurs in the training split leaves the validation split. ``train_limit`` acts last, so the validation
    split does not depend on it.

    Where the data bring a validation part, nothing is carved: it is the validation split, and images that
    also occur in it leave the training split.

    Args:
        source: The data set.
        val_fraction: Share of the training part that becomes the validation split, in (0, 1).
        seed: Chooses the images.
        train_limit: Keep a stratified subset of this many training images.

    Raises:
        DataError: If a class is left without a training or validation image, or ``train_limit`` is below
            the number of classes.
    """
    prints, test_prints = fingerprints(source.train, source.test)
    labels, names = source.train.labels, source.class_names
    if source.held_out is None:
        train, val, duplicates = _drawn(source, prints, test_prints, val_fraction, seed)
    else:
        train, val, duplicates = _given(source, source.held_out, prints, test_prints)
    if train_limit is not None:
        train = train[stratified_limit(labels[train], train_limit, seed, len(names))]
    duplicates["images_with_conflicting_labels"] = label_conflicts(
        prints + test_prints, np.concatenate([labels, source.test.labels])
    )
    parts = [
        (source.train, prints, train),
        (source.train, prints, val),
        (source.test, test_prints, np.arange(len(source.test))),
    ]
    return Carved(train, val, duplicates, _digest(source, parts))


def _drawn(
    source: Source, prints: list[bytes], test_prints: list[bytes], val_fraction: float, seed: int
) -> tuple[Indices, Indices, dict[str, int]]:
    labels, names = source.train.labels, source.class_names
    in_test = shared_with(prints, test_prints)
    clean = np.flatnonzero(~in_test)
    for k in np.flatnonzero(np.bincount(labels[clean], minlength=len(names)) == 0):
        why = (
            "all its images are also in the test part"
            if (labels == k).any()
            else "the training part has none"
        )
        raise DataError(f"class {names[k]!r} has no training image: {why}; add images or remove the class")
    stay, held = stratified_holdout(labels[clean], val_fraction, seed, names)
    train, val = clean[stay], clean[held]
    in_train = shared_with([prints[i] for i in val], [prints[i] for i in train])
    val = val[~in_train]
    for k in np.flatnonzero(np.bincount(labels[val], minlength=len(names)) == 0):
        raise DataError(
            f"every validation image of class {names[k]!r} is also a training image; "
            "remove the duplicates or raise val_fraction"
        )
    counts = {
        "train_part_images_removed_as_in_test": int(in_test.sum()),
        "val_images_removed_as_in_train": int(in_train.sum()),
    }
    return train, val, counts


def _given(
    source: Source, held_out: npt.NDArray[np.bool_], prints: list[bytes], test_prints: list[bytes]
) -> tuple[Indices, Indices, dict[str, int]]:
    train, val = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    stay, stay_val, counts = apart(
        [prints[i] for i in train], [prints[i] for i in val], test_prints, "images"
    )
    train, val = train[stay], val[stay_val]
    for split, at, where in (
        ("validation", val, "the test part"),
        ("training", train, "val/ or the test part"),
    ):
        missing = np.flatnonzero(np.bincount(source.train.labels[at], minlength=len(source.class_names)) == 0)
        for k in missing:
            raise DataError(
                f"class {source.class_names[k]!r} has no {split} image: all it had are also in {where}; "
                "remove the duplicates or the class"
            )
    return train, val, counts
