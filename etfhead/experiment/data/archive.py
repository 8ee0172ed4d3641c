"""Arrays of a ``.npz`` file, and what is wrong where they cannot be had."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError

__all__ = ["Arrays", "archive_path", "load_arrays"]

Arrays = dict[str, npt.NDArray[Any]]


def archive_path(data_root: str | None, dataset: str, make: str) -> Path:
    """The file that ``data_root`` names.

    Args:
        data_root: Of the recipe.
        dataset: Its ``dataset``, for messages.
        make: How such a file is written, for messages.

    Raises:
        DataError: If there is none.
    """
    if data_root is None:
        raise DataError(f"dataset={dataset} needs data_root, the path of a .npz file; got none; {make}")
    path = Path(data_root).expanduser()
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"data_root {path} {state}, expected a .npz file; {make}")
    return path


def load_arrays(path: Path, names: Sequence[str], make: str, *, optional: Collection[str] = ()) -> Arrays:
    """The named arrays, and the optional ones that the file has.

    Args:
        path: The file. Arrays of Python objects are refused, not unpickled.
        names: Arrays that must be there.
        make: How such a file is written, for messages.
        optional: Arrays that may be there.

    Raises:
        DataError: If the file is damaged or lacks an array.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{path} is not a .npz file (a zip of arrays); {make}")
        with np.load(path, allow_pickle=False) as archive:
            if missing := [name for name in names if name not in archive.files]:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}; it has {', '.join(archive.files) or 'no arrays'}; "
                    f"{make}"
                )
            return {name: archive[name] for name in (*names, *sorted(set(optional) & set(archive.files)))}
    except DataError:
        raise
    except Exception as error:  # zip, zlib and numpy each fail in their own way on damaged bytes
        # Arrays of Python objects end here too: they are pickles, which are never opened.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot read {path}: {reason}; write the file again, without object arrays"
        ) from error
