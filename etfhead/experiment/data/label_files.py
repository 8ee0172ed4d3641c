"""Labels kept in a file beside the images, such as human re-annotations: .npy, .pt or .csv."""

from __future__ import annotations

import csv
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError
from etfhead.experiment.unread import why_unread

__all__ = ["label_file_path", "read_label_file"]

_SUFFIXES = ("npy", "pt", "pth", "csv")
_PLACE = re.compile(rf"(?P<path>.+\.(?:{'|'.join(_SUFFIXES)}))(?::(?P<key>.+))?", re.IGNORECASE | re.DOTALL)


def label_file_path(place: str) -> tuple[Path, str | None]:
    """Path and key of ``FILE`` or ``FILE:KEY``.

    Raises:
        DataError: If the file's name ends in none of the known ways.

    >>> label_file_path("CIFAR-10_human.pt:worse_label")[1]
    'worse_label'
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise DataError(
            f"{place!r}: expected a file of labels that ends in .npy, .pt or .csv, or FILE:KEY, as in "
            "CIFAR-10_human.pt:worse_label"
        )
    return Path(found["path"]).expanduser(), found["key"]


def read_label_file(place: str, *, images: int, num_classes: int) -> npt.NDArray[np.int64]:
    """One class for each image of the training part, in the order of the data set's files.

    - ``.npy``: an array (N,), never unpickled.
    - ``.pt``, ``.pth``: a tensor, list or NumPy array (N,), or a dict of them and ``FILE:KEY`` says which;
      loaded with ``weights_only=True``, so that no code in it runs. CIFAR-N's files are of this kind.
    - ``.csv``: a column of numbers, with or without a header; ``FILE:KEY`` names one of several columns.

    Args:
        place: ``FILE`` or ``FILE:KEY``.
        images: N of the training part.
        num_classes: K.

    Raises:
        DataError: If the file is missing or damaged, holds no such key, another number of labels, or
            something else than whole numbers from 0 to K - 1.
    """
    path, key = label_file_path(place)
    if not path.is_file():
        raise DataError(f"{path}: no such file of labels (seen from {Path.cwd()})")
    read = {"npy": _read_npy, "csv": _read_csv}.get(path.suffix[1:].lower(), _read_pt)
    try:
        values = read(path, key)
    except DataError:
        raise
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: damaged, or holds more than tensors, arrays and lists of numbers, and nothing else is "
            "loaded: it could run code; save the labels alone, as an integer tensor or a .npy file"
        ) from error
    except Exception as error:  # numpy, csv, zip, pickle and torch each fail in their own way on bad bytes
        raise DataError(f"{path}: damaged or not a file of labels ({why_unread(error)})") from error
    return _checked(place, values, images, num_classes)


def _read_npy(path: Path, key: str | None) -> npt.NDArray[Any]:
    if key is not None:
        raise DataError(f"{path}:{key}: a .npy file holds one array; leave the key out")
    return np.asarray(np.load(path, allow_pickle=False))


def _read_pt(path: Path, key: str | None) -> npt.NDArray[Any]:
    import torch

    with torch.serialization.safe_globals(_array_parts()):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict):
        content = {str(name): value for name, value in content.items()}
        keys = ", ".join(content)
        if key is None:
            raise DataError(f"{path}: holds several labels; say which, as in {path.name}:KEY, of {keys}")
        if key not in content:
            raise DataError(f"{path}: has no {key!r}; it holds {keys}")
        content = content[key]
    elif key is not None:
        raise DataError(f"{path}:{key}: the file holds one set of labels; leave the key out")
    if not isinstance(content, torch.Tensor):
        return np.asarray(content)
    values = content.detach()
    return (values.double() if values.is_floating_point() else values).numpy()


def _array_parts() -> list[Any]:
    """What an array of numbers is made of in a pickle of either NumPy; none of it runs code of the file."""
    import _codecs  # raw bytes of old pickles pass through its encode

    from numpy._core import multiarray

    makers: list[Any] = [np.ndarray, np.dtype, _codecs.encode]
    makers += [type(np.dtype(code)) for code in "bhilqBHILQefd"]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        makers.append((multiarray._reconstruct, f"{module}._reconstruct"))
    return makers


def _read_csv(path: Path, key: str | None) -> npt.NDArray[Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        found = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if not found:
        raise DataError(f"{path}: the file is empty, expected one label a line")
    lines, rows = zip(*found, strict=True)
    names = None if all(_is_number(cell) for cell in rows[0]) else [cell.strip() for cell in rows[0]]
    at = 0
    if names is not None:
        lines, rows = lines[1:], rows[1:]
        if key is not None and names.count(key) != 1:
            number = "several columns" if key in names else "no column"
            raise DataError(f"{path}: has {number} {key!r}; its columns are {', '.join(names)}")
        at = 0 if key is None else names.index(key)
    elif key is not None:
        raise DataError(f"{path}:{key}: the file has no header with names of columns; leave the key out")
    if key is None and any(len(row) > 1 for row in rows):
        named = f", of {', '.join(names)}" if names else " after adding a header"
        raise DataError(f"{path}: has several columns; say which, as in {path.name}:COLUMN{named}")
    cells = [row[at].strip() if at < len(row) else "" for row in rows]
    for line, cell in zip(lines, cells, strict=True):
        if not _is_number(cell):
            raise DataError(f"{path}: line {line} holds {cell!r}, expected a whole number")
    return np.array([float(cell) for cell in cells])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _checked(place: str, values: npt.NDArray[Any], images: int, num_classes: int) -> npt.NDArray[np.int64]:
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        raise DataError(
            f"{place}: expected labels (N,), whole numbers, got {values.dtype} of shape {values.shape}"
        )
    if len(values) != images:
        raise DataError(
            f"{place}: holds {len(values):,} labels, expected {images:,}: one for each image of the data "
            "set's training part (the validation split comes out of it; a val/ of its own follows "
            "train/), in file order"
        )
    bad = np.flatnonzero(~((values >= 0) & (values < num_classes) & (values == np.floor(values))))
    if len(bad):
        raise DataError(
            f"{place}: label {values[bad[0]]:g} at position {bad[0]}, expected whole numbers from 0 to "
            f"{num_classes - 1}"
        )
    return values.astype(np.int64)
