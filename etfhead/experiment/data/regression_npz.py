"""One ``.npz`` file of a table, or of images, with real-valued targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError
from etfhead.experiment.data.archive import archive_path, load_arrays
from etfhead.experiment.data.archive_checks import checked_names, checked_split, plain_pixels
from etfhead.experiment.data.regression_parts import RegressionParts, Samples, draw_parts, make_parts

__all__ = ["count_npz_targets", "read_regression_npz"]

_DATASET = "regression_npz"
_MAKE = "write it with numpy.savez_compressed(file, x=..., y=..., target_names=..., split=...)"


def _checked_targets(path: Path, y: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if y.dtype.kind not in "fiu" or y.ndim not in (1, 2) or 0 in y.shape:
        raise DataError(
            f"{path}: y is {y.dtype} of shape {y.shape}, expected real numbers of shape (N, n), or (N,) for "
            "one target"
        )
    targets = y.reshape(len(y), -1).astype(np.float64)
    bad = np.argwhere(~np.isfinite(targets))
    if len(bad):
        row, column = bad[0].tolist()
        raise DataError(
            f"{path}: y holds {targets[row, column]} for sample {row}, target {column}, and so do "
            f"{len(set(bad[:, 0].tolist())) - 1} other samples; leave them out, or fill them in"
        )
    return targets


def _checked_inputs(path: Path, x: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    if x.ndim and len(x) != count:
        raise DataError(f"{path}: y holds {count} rows, expected one for each of {len(x)} rows of x")
    if x.ndim > 2:
        if x.dtype != np.uint8 or x.ndim > 4 or (x.ndim == 4 and x.shape[3] not in (1, 3)) or 0 in x.shape:
            raise DataError(
                f"{path}: x is {x.dtype} of shape {x.shape}, expected images, uint8 of shape (N, H, W) or "
                "(N, H, W, C) with C of 1 (grey) or 3 (RGB), or a table of numbers (N, D)"
            )
        return plain_pixels(x)
    if x.dtype.kind not in "fiub" or x.ndim != 2 or 0 in x.shape:
        raise DataError(
            f"{path}: x is {x.dtype} of shape {x.shape}, expected a table of numbers (N, D), or uint8 "
            "images; categories have to be coded as numbers first"
        )
    table = x.astype(np.float64)
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        row, column = bad[0].tolist()
        raise DataError(
            f"{path}: x holds {table[row, column]} in row {row}, column {column}; fill gaps in or leave the "
            "rows out"
        )
    return table


def _target_names(path: Path, listed: npt.NDArray[Any] | None, count: int) -> tuple[str, ...]:
    if listed is None:
        return tuple(f"target {k}" for k in range(count))
    return checked_names(path, "target_names", listed, count, "y")


def count_npz_targets(data_root: str | None) -> int:
    """The n of a regression ``.npz`` file from its targets alone.

    Raises:
        DataError: As :func:`read_regression_npz`.
    """
    path = archive_path(data_root, _DATASET, _MAKE)
    return int(_checked_targets(path, load_arrays(path, ("y",), _MAKE)["y"]).shape[1])


def read_regression_npz(
    data_root: str | None, *, val_fraction: float = 0.1, split_seed: int = 0
) -> RegressionParts:
    """A table or images of one size, and their targets, in one NumPy archive.

    ``x`` is (N, D) numbers, or uint8 images (N, H, W) grey or (N, H, W, 3) RGB; ``y`` (N, n) numbers, in
    their own units; ``target_names`` (n texts) may be left out. ``split`` (N texts: train, val or test) may
    be left out or name no val: what it does not say is drawn, a fifth of all samples as test split, the same
    for every ``split_seed``, and ``val_fraction`` of the rest for validation. Give it where neighbouring rows
    are alike, as in a trajectory. Inputs that occur in more than one split leave the training split first,
    then validation.

    Args:
        data_root: Path of the file. Arrays of Python objects are refused, not unpickled.
        val_fraction: Share of the samples not in the test split that validation takes.
        split_seed: Draws those.

    Raises:
        DataError: If the file is missing or damaged, an array is missing or has another type or shape than
            stated, or a number is NaN or infinite.
    """
    path = archive_path(data_root, _DATASET, _MAKE)
    arrays = load_arrays(path, ("x", "y"), _MAKE, optional=("target_names", "split"))
    targets = _checked_targets(path, arrays["y"])
    inputs = _checked_inputs(path, arrays["x"], len(targets))
    names = _target_names(path, arrays.get("target_names"), targets.shape[1])
    given = checked_split(path, arrays["split"], len(targets), "sample") if "split" in arrays else None
    part = draw_parts(len(targets), val_fraction, split_seed, given)
    return make_parts(Samples(inputs, targets), part, names, root=str(path))
