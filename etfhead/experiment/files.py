"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["atomic_write", "parse_json", "write_bytes", "write_json", "write_text"]

_LARGEST = 1 << 1023  # no float holds larger ones, so the first comparison with one would fail


def atomic_write(path: Path, write: Callable[[BinaryIO], None], *, keep: Path | None = None) -> Path:
    """Write ``path`` through a temporary file beside it, flushed to disk before it takes the name.

    Args:
        path: Destination; its folder is created.
        write: Called with the open binary file.
        keep: The present ``path`` is renamed to this once the new file is safe on disk.

    Raises:
        OSError: The disk is full or the folder cannot be written. ``path`` and ``keep`` are then as before.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a link planted under this name must not lead the bytes elsewhere
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        _discard(temporary)
        reason = error.strerror or str(error)
        hint = f"; the earlier {path.name} is untouched" if path.exists() else ""
        raise OSError(error.errno, f"cannot write {path}: {reason}{hint}") from error
    except BaseException:
        _discard(temporary)
        raise
    _sync_folder(path.parent)
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    """Write bytes atomically."""
    return atomic_write(path, lambda file: _write_all(file, data))


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """Write indented JSON atomically; NaN is refused because JSON has none."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def parse_json(text: str) -> Any:
    """Parse JSON that somebody else may have written.

    Raises:
        ValueError: If it is not JSON, is nested too deeply, or holds an integer beyond every float.

    >>> parse_json('{"top1": 97}')
    {'top1': 97}
    >>> parse_json("[" * 10**5)
    Traceback (most recent call last):
    ValueError: nested too deeply
    """
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(digits: str) -> int:
    value = int(digits)
    if abs(value) > _LARGEST:
        raise ValueError(f"a number of {len(digits)} digits")
    return value


def _write_all(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder is unreadable: the error that led here is the one to report
        return


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the system can (not on Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
