"""One ``.npz`` file with the arrays ``x_train``, ``y_train``, ``x_test``, ``y_test``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError
from etfhead.experiment.data.archive import Arrays, archive_path, load_arrays
from etfhead.experiment.data.archive_checks import check_different, check_pixels, plain_pixels
from etfhead.experiment.data.images import ArrayImages, Source

__all__ = ["count_npz_classes", "read_npz"]

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("class_names",)
_MAKE = "write it with numpy.savez_compressed(file, x_train=..., y_train=..., x_test=..., y_test=...)"


def _check_part(path: Path, part: str, pixels: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    x, y = f"{path}: x_{part}", f"{path}: y_{part}"
    check_pixels(x, pixels)
    if 0 in pixels.shape:
        raise DataError(f"{x} has shape {pixels.shape}, expected at least one image of at least one pixel")
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(
            f"{y} is {labels.dtype} of shape {labels.shape}, expected (N,) integers 0..K-1, one an image"
        )
    if len(labels) != len(pixels):
        raise DataError(f"{y} holds {len(labels)} labels, expected one for each of {len(pixels)} images")


def _class_names(path: Path, arrays: Arrays, names: tuple[str, ...]) -> tuple[str, ...]:
    """One name a class, after checking that every label has one."""
    listed = arrays.get("class_names")
    if listed is None:
        largest, images = max(int(arrays[name].max()) for name in names), sum(len(arrays[n]) for n in names)
        if largest >= images:  # some class would have no image; and millions of names are not worth making
            raise DataError(f"{path}: the largest label is {largest}, expected less than the {images} labels")
        listed = np.array([str(label) for label in range(largest + 1)])
    if listed.ndim != 1 or listed.dtype.kind != "U":
        raise DataError(
            f"{path}: class_names is {listed.dtype} of shape {listed.shape}, expected K texts (dtype str)"
        )
    check_different(path, "class_names", listed)
    if len(listed) < 2:
        raise DataError(f"{path} holds {len(listed)} class(es), expected at least two")
    for name in names:
        bad = np.flatnonzero((arrays[name] < 0) | (arrays[name] >= len(listed)))
        if len(bad):
            raise DataError(
                f"{path}: {name} holds {int(arrays[name][bad[0]])} at position {int(bad[0])}, "
                f"expected 0..{len(listed) - 1}"
            )
    return tuple(listed.tolist())


def count_npz_classes(data_root: str | None) -> int:
    """K of a ``.npz`` data set from its labels alone, without reading an image.

    Raises:
        DataError: As :func:`read_npz`.
    """
    path = archive_path(data_root, "npz", _MAKE)
    arrays = load_arrays(path, ("y_train",), _MAKE, optional=_OPTIONAL)
    labels = arrays["y_train"]
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or len(labels) == 0:
        raise DataError(
            f"{path}: y_train is {labels.dtype} of shape {labels.shape}, expected (N,) integers 0..K-1"
        )
    return len(_class_names(path, arrays, ("y_train",)))


def read_npz(data_root: str | None) -> Source:
    """Images of one size in one NumPy archive, for sets that were rendered or decoded once.

    ``x_train`` and ``x_test`` are uint8, (N, H, W) grey or (N, H, W, 3) RGB; ``y_train`` and ``y_test`` are
    integers 0..K-1; ``class_names`` (K texts) may be left out, K is then one more than the largest label.
    The validation split is carved from the training part.

    Args:
        data_root: Path of the file. Arrays of Python objects are refused, not unpickled.

    Raises:
        DataError: If the file is missing or damaged, or an array is missing or has another type or shape
            than stated; the message says which and what was expected.
    """
    path = archive_path(data_root, "npz", _MAKE)
    arrays = load_arrays(path, _ARRAYS, _MAKE, optional=_OPTIONAL)
    for part in ("train", "test"):
        _check_part(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    names = _class_names(path, arrays, ("y_train", "y_test"))
    train, test = (
        ArrayImages(plain_pixels(arrays[f"x_{part}"]), arrays[f"y_{part}"].astype(np.int64))
        for part in ("train", "test")
    )
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise DataError(
            f"{path}: images of x_test are {test.pixels.shape[1:]}, expected {train.pixels.shape[1:]} as in "
            "x_train"
        )
    return Source(train, test, names, root=str(path))
