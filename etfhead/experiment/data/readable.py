"""Which image files of a folder cannot be decoded, found before the first step and not hours into a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from etfhead.errors import DataError
from etfhead.experiment.data.decode import bombs_are_errors, decode_unguarded
from etfhead.experiment.terminal import shown

__all__ = ["summarize_unreadable", "unreadable"]

_SHOWN = 5
_THREADS = 8
_AHEAD = 1024  # files handed out at a time: a million futures would weigh more than the pictures

# Checked once a process: a study reads the same folder for each of its settings.
_checked: dict[tuple[str, int, int], str | None] = {}


def unreadable(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Decode every file once and say which fail.

    JPEG files are decoded at an eighth of their size, which reads all their data at a third of the time.

    Args:
        root: Folder that ``paths`` are relative to.
        paths: Relative paths.

    Returns:
        dict: Path to reason, in the order of ``paths``, for those that cannot be decoded.
    """
    with bombs_are_errors(), ThreadPoolExecutor(max_workers=min(_THREADS, os.cpu_count() or 1)) as pool:
        progress = tqdm(
            zip(paths, _reasons(pool, root, paths), strict=True),
            total=len(paths), desc="decode every image once", unit="img", disable=None, leave=False, delay=1,
        )  # fmt: skip
        return {path: reason for path, reason in progress if reason is not None}


def summarize_unreadable(failed: dict[str, str], total: int) -> str:
    """Count and first names, for a note or an error.

    >>> summarize_unreadable({"cat/1.png": "empty"}, 10)
    '1 of 10 image files cannot be decoded: cat/1.png (empty)'
    """
    first = [shown(f"{path} ({reason})") for path, reason in list(failed.items())[:_SHOWN]]
    more = f", and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    return f"{len(failed):,} of {total:,} image files cannot be decoded: {', '.join(first)}{more}"


def _reasons(pool: ThreadPoolExecutor, root: Path, paths: Sequence[str]) -> Iterator[str | None]:
    for start in range(0, len(paths), _AHEAD):
        yield from pool.map(_reason, [root / path for path in paths[start : start + _AHEAD]])


def _reason(path: Path) -> str | None:
    try:
        stat = path.stat()
    except OSError as error:
        return error.strerror or str(error)
    key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
    if key not in _checked:
        _checked[key] = "empty, 0 bytes" if stat.st_size == 0 else _decode(path)
    return _checked[key]


def _decode(path: Path) -> str | None:
    try:
        if path.suffix.lower() not in (".jpg", ".jpeg") or not _decode_small(path):
            decode_unguarded(path, "RGB")
    except DataError as error:
        cause = error.__cause__
        return f"{type(cause).__name__}: {' '.join(str(cause).split())[:120]}"
    return None


def _decode_small(path: Path) -> bool:
    """Decode a JPEG at an eighth of its size; False where the full decoder has to say what is wrong."""
    try:
        with Image.open(path) as image:
            if image.format != "JPEG":
                return False
            image.draft(None, (max(image.width // 8, 1), max(image.height // 8, 1)))
            image.load()
    except Exception:  # whatever it was, the full decoder finds it again and names it
        return False
    return True
