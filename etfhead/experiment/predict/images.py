"""Image files by name, and their decoding in batches where one broken file spoils nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from etfhead.errors import DataError
from etfhead.experiment.data.decode import decode_image
from etfhead.experiment.data.folder import IMAGE_EXTENSIONS

__all__ = ["Decoded", "decoded_batches", "find_images"]

# Files of a batch, the stacked images of those that could be read, and the reasons of the others by place.
Decoded = tuple[list[Path], Tensor | None, dict[int, str]]

_MODES = {1: "L", 3: "RGB"}


def find_images(names: Iterable[str | Path]) -> list[Path]:
    """Files as they are given, and of each folder all image files below it, sorted.

    Hidden files and folders are passed over, links to folders too, and in folders files without an image's
    extension. A name that does not exist or a folder that cannot be read stays in the list: it is that file's
    error, not the end.

    Args:
        names: Files and folders.

    Raises:
        ValueError: If a folder holds no images, or a name is empty.
    """
    found: list[Path] = []
    for given in names:
        if not str(given):
            raise ValueError("an empty name among the images; name a file or a folder")
        name = Path(given)
        if not os.path.isdir(name):  # where Path.is_dir may raise
            found.append(name)
            continue
        below = list(_below(name))
        if not below:
            extensions = ", ".join(sorted(IMAGE_EXTENSIONS))
            raise ValueError(f"folder {name} holds no images (extensions {extensions})")
        found += below
    return found


def _below(root: Path) -> Iterator[Path]:
    unreadable: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=lambda e: unreadable.append(Path(e.filename))):
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in IMAGE_EXTENSIONS:
                yield Path(folder, file)
    yield from unreadable


def decoded_batches(
    paths: Sequence[Path], data_config: Mapping[str, Any], *, batch_size: int, workers: int = 0
) -> Iterator[Decoded]:
    """Images as the model was evaluated on, batch by batch, in the order of ``paths``.

    Args:
        paths: Image files.
        data_config: Under timm's names: ``input_size``, ``interpolation``, ``mean``, ``std``, ``crop_pct``,
            ``crop_mode``.
        batch_size: Files a batch.
        workers: Processes that decode; 0 decodes in this one.

    Raises:
        ValueError: If the model takes neither one channel nor three, or an argument is out of range.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ValueError(f"{name}={value}: expected at least {least}")
    loader = DataLoader(
        _Files(paths, data_config), batch_size=batch_size, num_workers=workers, collate_fn=_collate
    )
    start = 0
    for images, reasons in loader:
        count = len(reasons) + (0 if images is None else len(images))
        yield list(paths[start : start + count]), images, reasons
        start += count


class _Files(Dataset[Tensor | str]):
    """Normalised images (C, H, W), or the reason why there is none."""

    def __init__(self, paths: Sequence[Path], data_config: Mapping[str, Any]) -> None:
        from timm.data import create_transform

        channels, height, width = data_config["input_size"]
        if channels not in _MODES:
            raise ValueError(f"the model takes {channels} channels; image files have 1 (grey) or 3 (RGB)")
        self.paths, self.mode = list(paths), _MODES[channels]
        self.side = math.ceil(max(height, width) / data_config["crop_pct"])
        self.transform = create_transform(**data_config)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        path = self.paths[index]
        try:
            if not path.exists():
                raise DataError(f"image {path} does not exist")
            if not path.is_file():
                # Reading a pipe would wait for a writer that may never come.
                what = "a folder that cannot be read" if path.is_dir() else "not a regular file"
                raise DataError(f"cannot decode image {path}: {what}")
            image = decode_image(path, self.mode)
            self._check_shape(image, path)
            tensor: Tensor = self.transform(image)
        except DataError as error:
            return str(error)
        except (MemoryError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()) or "no reason given"
            return f"cannot prepare image {path}: {type(error).__name__}: {reason}"
        return tensor

    def _check_shape(self, image: Image.Image, path: Path) -> None:
        """A strip of one pixel's height is small on disk, and after scaling larger than any bomb."""
        short, long = sorted(image.size)
        limit = Image.MAX_IMAGE_PIXELS
        if short < 1 or (limit is not None and self.side * self.side * (long / short) > limit):
            raise DataError(
                f"cannot prepare image {path}: {image.width} x {image.height} pixels, scaled to "
                f"{self.side} on the shorter side, are more than Pillow's limit of {limit:,}"
            )


def _collate(items: list[Tensor | str]) -> tuple[Tensor | None, dict[int, str]]:
    images = [item for item in items if isinstance(item, Tensor)]
    reasons = {place: item for place, item in enumerate(items) if isinstance(item, str)}
    return (torch.stack(images) if images else None), reasons
