"""Images with several labels each, already in three splits, and what the run folder should know of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.duplicates import apart, fingerprints, label_conflicts
from etfhead.experiment.data.images import ArrayImages
from etfhead.experiment.data.multilabel_splits import multilabel_limit
from etfhead.experiment.data.splits import Indices

__all__ = ["MultiLabelParts", "clean_parts", "require_labels"]


@dataclass(frozen=True, eq=False)
class MultiLabelParts:
    """The three splits of a multi-label set; ``labels`` of each are (n, K) of 0 and 1, int64.

    Args:
        train: Training split.
        val: Validation split.
        test: Test split.
        class_names: K names.
        root: Where the data came from, for the run folder.
        duplicates: Counts for the run folder.
        notes: Facts about the source that a reader of the report should know.
    """

    train: ArrayImages
    val: ArrayImages
    test: ArrayImages
    class_names: tuple[str, ...]
    root: str
    duplicates: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def label_counts(self) -> tuple[int, ...]:
        """Training images of each label."""
        return tuple(self.train.labels.sum(0).tolist())

    @property
    def set_sizes(self) -> tuple[int, ...]:
        """Training images with 0, 1, 2, ... labels."""
        return tuple(np.bincount(self.train.labels.sum(1)).tolist())

    def limited(self, train_limit: int | None, seed: int) -> MultiLabelParts:
        """The same with a stratified subset of the training split; ``None`` keeps it whole."""
        if train_limit is None:
            return self
        kept = multilabel_limit(self.train.labels, train_limit, seed, self.class_names)
        return replace(self, train=self.train.subset(kept))

    def gray(self) -> MultiLabelParts:
        """The same images as luma."""
        return replace(self, train=self.train.gray(), val=self.val.gray(), test=self.test.gray())

    def digest(self) -> str:
        """SHA-256 over class names, labels and pixels of the three splits."""
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        for images in (self.train, self.val, self.test):
            shape = (*images.pixels.shape, *images.labels.shape)
            digest.update(np.array([len(shape), *shape], dtype="<i8").tobytes())
            digest.update(images.labels.astype(np.uint8).tobytes())
            digest.update(np.ascontiguousarray(images.pixels).data)
        return digest.hexdigest()


def require_labels(targets: Indices, class_names: tuple[str, ...], part: str) -> None:
    """Raise ``DataError`` if a label has no image; ``part`` says where, such as "training "."""
    empty = [class_names[k] for k in np.flatnonzero(~targets.any(0))]
    if empty:
        listed = ", ".join(repr(name) for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise DataError(f"{len(empty)} label(s) have no {part}image: {listed}; add images or remove them")


def clean_parts(parts: MultiLabelParts) -> MultiLabelParts:
    """Without training images that validation or test hold too, nor validation images of the test split.

    Only pixels are compared; the counts are added to ``duplicates``.

    Raises:
        DataError: If a label is left without a training image.
    """
    train_prints, test_prints = fingerprints(parts.train, parts.test)
    val_prints, _ = fingerprints(parts.val, parts.test)
    stay, stay_val, counts = apart(train_prints, val_prints, test_prints, "images")
    targets = np.concatenate([parts.train.labels, parts.val.labels, parts.test.labels])
    _, sets = np.unique(targets, axis=0, return_inverse=True)
    train = parts.train.subset(np.flatnonzero(stay))
    require_labels(train.labels, parts.class_names, "training ")
    counts["images_with_conflicting_labels"] = label_conflicts(
        train_prints + val_prints + test_prints, sets.reshape(-1)
    )
    val = parts.val.subset(np.flatnonzero(stay_val))
    return replace(parts, train=train, val=val, duplicates={**parts.duplicates, **counts})
