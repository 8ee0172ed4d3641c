"""One ``.npz`` file of images and multi-hot labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError
from etfhead.experiment.data.archive import archive_path, load_arrays
from etfhead.experiment.data.archive_checks import check_pixels, checked_names, checked_split, plain_pixels
from etfhead.experiment.data.images import ArrayImages
from etfhead.experiment.data.multilabel_parts import MultiLabelParts, clean_parts, require_labels
from etfhead.experiment.data.multilabel_splits import iterative_split
from etfhead.experiment.data.splits import PARTS, TEST_FRACTION, TEST_SEED, Indices

__all__ = ["count_npz_labels", "read_multilabel_npz"]

_OPTIONAL = ("class_names", "split")
_MAKE = "write it with numpy.savez_compressed(file, images=..., labels=..., class_names=...)"


def _checked_labels(path: Path, labels: npt.NDArray[Any]) -> Indices:
    if labels.dtype.kind not in "iub" or labels.ndim != 2 or labels.shape[1] < 2 or not len(labels):
        raise DataError(
            f"{path}: labels is {labels.dtype} of shape {labels.shape}, expected uint8 of shape (N, K) with "
            "K >= 2: one row an image, 1 where it carries the label, else 0"
        )
    other = np.argwhere((labels != 0) & (labels != 1))
    if len(other):
        row, column = other[0].tolist()
        raise DataError(
            f"{path}: labels holds {labels[row, column]} for image {row}, label {column}, expected 0 or 1; "
            "unsure labels have to be decided first"
        )
    return labels.astype(np.int64)


def _checked_pixels(path: Path, pixels: npt.NDArray[Any], count: int) -> npt.NDArray[np.uint8]:
    check_pixels(f"{path}: images", pixels)
    if 0 in pixels.shape:
        raise DataError(f"{path}: images has shape {pixels.shape}, expected images of at least one pixel")
    if len(pixels) != count:
        raise DataError(f"{path}: labels holds {count} rows, expected one for each of {len(pixels)} images")
    return plain_pixels(pixels)


def _class_names(path: Path, listed: npt.NDArray[Any] | None, count: int) -> tuple[str, ...]:
    if listed is None:
        return tuple(str(label) for label in range(count))
    return checked_names(path, "class_names", listed, count, "labels")


def _listed_split(path: Path, listed: npt.NDArray[Any], count: int) -> Indices:
    out = checked_split(path, listed, count, "image")
    for number, part in ((0, "train"), (2, "test")):
        if not (out == number).any():
            raise DataError(f"{path}: split gives no image to {part}; leave split out to have them drawn")
    return out


def count_npz_labels(data_root: str | None) -> int:
    """K of a multi-label ``.npz`` file from its labels alone, without reading an image.

    Raises:
        DataError: As :func:`read_multilabel_npz`.
    """
    path = archive_path(data_root, "multilabel_npz", _MAKE)
    arrays = load_arrays(path, ("labels",), _MAKE, optional=_OPTIONAL)
    count: int = _checked_labels(path, arrays["labels"]).shape[1]
    return len(_class_names(path, arrays.get("class_names"), count))


def read_multilabel_npz(
    data_root: str | None, *, val_fraction: float = 0.1, split_seed: int = 0
) -> MultiLabelParts:
    """Images of one size and their multi-hot labels in one NumPy archive.

    ``images`` is uint8, (N, H, W) grey or (N, H, W, 3) RGB; ``labels`` (N, K) of 0 and 1; ``class_names``
    (K texts) may be left out. ``split`` (N texts: train, val or test) may be left out or name no val; what
    it does not say is drawn such that each label is in every split: a fifth of all images as test split,
    the same for every ``split_seed``, and ``val_fraction`` of the rest for validation. Images that occur in
    more than one split leave the training split first, then validation.

    Args:
        data_root: Path of the file. Arrays of Python objects are refused, not unpickled.
        val_fraction: Share of the images not in the test split that validation takes.
        split_seed: Draws those.

    Raises:
        DataError: If the file is missing or damaged, an array is missing or has another type or shape than
            stated, or a label is left without a training image.
    """
    path = archive_path(data_root, "multilabel_npz", _MAKE)
    arrays = load_arrays(path, ("images", "labels"), _MAKE, optional=_OPTIONAL)
    labels = _checked_labels(path, arrays["labels"])
    pixels = _checked_pixels(path, arrays["images"], len(labels))
    names = _class_names(path, arrays.get("class_names"), labels.shape[1])
    require_labels(labels, names, "")
    if "split" in arrays:
        part = _listed_split(path, arrays["split"], len(labels))
    else:
        part = 2 * iterative_split(labels, (1 - TEST_FRACTION, TEST_FRACTION), TEST_SEED, names)
    if not (part == 1).any():
        rest = np.flatnonzero(part == 0)
        part[rest] = iterative_split(labels[rest], (1 - val_fraction, val_fraction), split_seed, names)
    everything = ArrayImages(pixels, labels)
    train, val, test = (everything.subset(np.flatnonzero(part == number)) for number in range(3))
    notes = tuple(
        f"{empty} {name} image(s) carry no label"
        for name, images in zip(PARTS, (train, val, test), strict=True)
        if (empty := int((images.labels.sum(1) == 0).sum()))
    )
    parts = MultiLabelParts(train, val, test, names, root=str(path), duplicates={}, notes=notes)
    return clean_parts(parts)
