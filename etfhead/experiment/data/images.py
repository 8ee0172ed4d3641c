"""Where raw images live before any transform: an array in memory, or files that are decoded on use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from etfhead.experiment.data.decode import decode_image

__all__ = ["ArrayImages", "FileImages", "Images", "Source", "to_gray"]

_CHUNK = 4096  # images converted at a time: temporaries stay small beside the set


def to_gray(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Luma of RGB pixels (..., 3), ``(19595 R + 38470 G + 7471 B + 2^15) >> 16`` as Pillow computes it."""
    wide = pixels.astype(np.uint32)
    luma = 19595 * wide[..., 0] + 38470 * wide[..., 1] + 7471 * wide[..., 2] + 0x8000
    return (luma >> 16).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size held in memory.

    Args:
        pixels: (n, H, W) gray or (n, H, W, 3) RGB, uint8.
        labels: (n,) class indices, or (n, K) of 0 and 1 on multi-label data, int64.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: npt.NDArray[np.int64]) -> ArrayImages:
        """The images at ``indices``, in that order."""
        return ArrayImages(self.pixels[indices], self.labels[indices])

    def image(self, index: int, mode: str) -> Image.Image:
        """One image in Pillow mode ``L`` or ``RGB``."""
        image = Image.fromarray(self.pixels[index])
        return image if image.mode == mode else image.convert(mode)

    def gray(self) -> ArrayImages:
        """The same images as luma; itself when already gray."""
        if self.pixels.ndim == 3:
            return self
        starts = range(0, max(len(self), 1), _CHUNK)
        return ArrayImages(
            np.concatenate([to_gray(self.pixels[s : s + _CHUNK]) for s in starts]), self.labels
        )


@dataclass(frozen=True, eq=False)
class FileImages:
    """Image files below one folder, decoded whenever they are asked for.

    Args:
        root: Folder that ``paths`` are relative to.
        paths: (n,) relative paths with forward slashes, as an object array of ``str``.
        labels: (n,) class indices, int64.
        sizes: (n,) bytes of each file, int64.
    """

    root: Path
    paths: npt.NDArray[np.object_]
    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: npt.NDArray[np.int64]) -> FileImages:
        """The files at ``indices``, in that order."""
        return FileImages(self.root, self.paths[indices], self.labels[indices], self.sizes[indices])

    def image(self, index: int, mode: str) -> Image.Image:
        """One image in Pillow mode ``L`` or ``RGB``; ``DataError`` names a file that cannot be decoded."""
        return decode_image(self.root / self.paths[index], mode)


Images = ArrayImages | FileImages


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it was found: its training part, its test part, its classes.

    Args:
        train: Training part, out of which the validation split is carved; or the images of both.
        test: Test part.
        class_names: One name a class; labels index it.
        root: Where the data came from, for the run folder.
        notes: Facts about the source that a reader of the report should know.
        observed: Labels of the training part as a user has them, where ``train.labels`` are the true ones.
        held_out: Mask of the images in ``train`` that are the validation part, where the data bring one.
        how_split: The note that a run says when it starts, if the parts are not what one may expect.
    """

    train: Images
    test: Images
    class_names: tuple[str, ...]
    root: str
    notes: tuple[str, ...] = ()
    observed: npt.NDArray[np.int64] | None = None
    held_out: npt.NDArray[np.bool_] | None = None
    how_split: str = ""

    def without_held_out(self) -> Images:
        """The training part alone."""
        return self.train if self.held_out is None else self.train.subset(np.flatnonzero(~self.held_out))
