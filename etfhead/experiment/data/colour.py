"""Whether image files are in colour, told from the first one of each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from etfhead.experiment.data.decode import bombs_are_errors, decode_unguarded
from etfhead.experiment.data.folder import folder_classes, is_image

__all__ = ["first_in_colour"]

_GREY_LEVELS = 16  # what compression and scanners leave between the channels of a grey picture


def first_in_colour(data_root: str) -> str | None:
    """The first training image of a class that is in colour, or None; at most one a class is decoded.

    Args:
        data_root: As of :func:`~etfhead.experiment.data.folder.read_image_folder`.

    Returns:
        str: Its path below ``data_root``.

    Raises:
        DataError: If the folder is not one of classes.
    """
    root = Path(data_root).expanduser()
    for name in folder_classes(data_root):
        path = next(_images(root / "train" / name), None)
        if path is not None and _in_colour(path):
            return path.relative_to(root).as_posix()
    return None


def _images(folder: Path) -> Iterator[Path]:
    for below, folders, files in os.walk(folder):
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        yield from (path for path in (Path(below, file) for file in sorted(files)) if is_image(path))


def _in_colour(path: Path) -> bool:
    try:
        with bombs_are_errors():
            with Image.open(path) as image:
                if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"):
                    return False
            pixels = np.asarray(decode_unguarded(path, "RGB"))
    except Exception:  # decoders fail in many ways; whoever reads all files tells of it
        return False
    return int((pixels.max(2) - pixels.min(2)).max()) > _GREY_LEVELS
