"""What the arrays of every kind of ``.npz`` file are held to: pixels, names, listed splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError
from etfhead.experiment.data.splits import PARTS, Indices

__all__ = ["check_different", "check_pixels", "checked_names", "checked_split", "plain_pixels"]


def check_pixels(where: str, pixels: npt.NDArray[Any]) -> None:
    """Raise ``DataError`` unless an array holds images as bytes.

    Args:
        where: File and array, for messages.
        pixels: Expected: uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3).
    """
    if pixels.dtype != np.uint8:
        raise DataError(f"{where} is {pixels.dtype}, expected uint8 pixels of 0..255; convert it")
    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)):
        raise DataError(
            f"{where} has shape {pixels.shape}, expected (N, H, W) or (N, H, W, C) with C of 1 (grey) or 3 "
            "(RGB)"
        )


def plain_pixels(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The images in one block of memory, grey ones as (N, H, W).

    >>> plain_pixels(np.zeros((5, 8, 8, 1), dtype=np.uint8)).shape
    (5, 8, 8)
    """
    return np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels)


def checked_names(path: Path, array: str, listed: npt.NDArray[Any], count: int, of: str) -> tuple[str, ...]:
    """The names of an array's columns.

    Args:
        path: The file.
        array: What ``listed`` is called in it.
        listed: Expected: ``count`` different texts.
        count: Number of columns.
        of: Name of the array that has them.

    Raises:
        DataError: If it is something else.
    """
    _check_texts(path, array, listed, count, f"one a column of {of}")
    check_different(path, array, listed)
    return tuple(listed.tolist())


def check_different(path: Path, array: str, listed: npt.NDArray[Any]) -> None:
    """Raise ``DataError`` if a name occurs twice."""
    if len(set(listed.tolist())) < len(listed):
        raise DataError(f"{path}: {array} repeats a name; expected {len(listed)} different ones")


def checked_split(path: Path, listed: npt.NDArray[Any], count: int, item: str) -> Indices:
    """0, 1 or 2 for what the array ``split`` gives to train, val and test.

    Args:
        path: The file.
        listed: Expected: a text for each item.
        count: N.
        item: What is split, in a word.

    Raises:
        DataError: If it is something else.
    """
    _check_texts(path, "split", listed, count, f"train, val or test for each {item}")
    strange = np.flatnonzero(~np.isin(listed, PARTS))
    if len(strange):
        raise DataError(
            f"{path}: split holds {str(listed[strange[0]])!r} for {item} {strange[0]}, expected train, val "
            "or test"
        )
    return np.select([listed == part for part in PARTS], range(3)).astype(np.int64)


def _check_texts(path: Path, array: str, listed: npt.NDArray[Any], count: int, meaning: str) -> None:
    if listed.shape != (count,) or listed.dtype.kind != "U":
        raise DataError(
            f"{path}: {array} is {listed.dtype} of shape {listed.shape}, expected {count} texts (dtype str), "
            f"{meaning}"
        )
