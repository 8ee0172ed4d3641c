"""Checksums by which a run's files tell that they are as they were written, and belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["SEAL", "file_sha256", "files_sha256", "is_intact", "seal", "wrong_files"]

SEAL = "sha256"
_FILES = "files_sha256"


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON-able mapping with the SHA-256 of its content as last entry.

    >>> is_intact(seal({"top1": 97.5}))
    True
    >>> is_intact({**seal({"top1": 97.5}), "top1": 98.5})
    False
    """
    content = {key: item for key, item in value.items() if key != SEAL}
    return {**content, SEAL: _digest(content)}


def is_intact(value: Mapping[str, Any]) -> bool:
    """Whether a sealed mapping, read back, is what was written. One without a seal is taken as it is."""
    found = value.get(SEAL)
    return found is None or found == _digest({key: item for key, item in value.items() if key != SEAL})


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal as ``sha256sum`` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(folder: Path, names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The entry of a result that binds the files beside it."""
    return {_FILES: {name: file_sha256(folder / name) for name in names}}


def wrong_files(folder: Path, result: Mapping[str, Any], names: tuple[str, ...] | None = None) -> list[str]:
    """What is wrong with the files that a ``result.json`` was written with, one line a file.

    ``--resume``, ``export`` and ``predict`` all ask here.

    Args:
        folder: ``arms/<arm>/seed<k>``.
        result: Content of ``result.json``. One of an earlier version names no checksums: nothing is checked.
        names: Only these files; default all.

    Returns:
        list[str]: Empty when every file is there and as it was written.
    """
    bound = result.get(_FILES)
    wrong = []
    for name, digest in bound.items() if isinstance(bound, Mapping) else ():
        if names is not None and name not in names:
            continue
        path = folder / name
        try:
            found = file_sha256(path)
        except FileNotFoundError:
            wrong.append(f"{path}: missing")
        except OSError as error:
            wrong.append(f"{path}: cannot be read ({error.strerror or error})")
        else:
            if found != digest:
                wrong.append(f"{path}: damaged or of another run (result.json has another checksum for it)")
    return wrong


def _digest(content: Mapping[str, Any]) -> str:
    # Through JSON once, so that tuples and number keys count as what is read back.
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
