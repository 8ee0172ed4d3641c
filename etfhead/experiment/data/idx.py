"""The idx format of MNIST: a magic number, big-endian dimensions, unsigned bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from etfhead.errors import DataError

__all__ = ["read_idx"]

_UBYTE = 0x08


def read_idx(path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, plain or gzip-compressed (by its first bytes, not its name).

    Layout: two zero bytes, the type (0x08), the number of dimensions, one big-endian uint32 a dimension,
    then the data in row-major order (http://yann.lecun.com/exdb/mnist/).

    Args:
        path: The file.
        ndim: Dimensions expected: 1 for labels, 3 for images.

    Returns:
        Array with the dimensions that the file states.

    Raises:
        DataError: If the file is unreadable, has another magic number, or is shorter or longer than its
            dimensions say.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(4)
            wanted = bytes([0, 0, _UBYTE, ndim])
            if head != wanted:
                raise DataError(
                    f"{path} is not an idx file of {ndim}-d unsigned bytes: "
                    f"magic number expected 0x{wanted.hex()}, got 0x{head.hex()}; fetch the file again"
                )
            sizes = file.read(4 * ndim)
            if len(sizes) < 4 * ndim:
                raise DataError(f"{path} is truncated inside its header; fetch the file again")
            shape = struct.unpack(f">{ndim}I", sizes)
            count = math.prod(shape)
            data = file.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; fetch the file again") from error
    if len(data) != count:
        got = f"{len(data)}" if len(data) < count else "more"
        raise DataError(f"{path} states {shape} = {count} bytes of data, got {got}; fetch the file again")
    return np.frombuffer(bytearray(data), dtype=np.uint8).reshape(shape)  # writable, as torch expects
