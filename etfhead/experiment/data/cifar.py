"""CIFAR-10 and CIFAR-100: torchvision's files, or the same images as class folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from etfhead.errors import DataError
from etfhead.experiment.data.folder import read_image_folder
from etfhead.experiment.data.images import ArrayImages, Images, Source

__all__ = ["read_cifar"]

_BATCHES = {10: "cifar-10-batches-py", 100: "cifar-100-python"}
_SIDE = 32


def _torchvision(root: str, num_classes: int, download: bool) -> Source:
    from torchvision import datasets

    kind: Any = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[num_classes]
    try:
        # These files are pickles: torchvision opens them only after their checksums match the originals.
        train, test = (kind(root, train=part, download=download) for part in (True, False))
    except Exception as error:  # urllib, socket, checksum and disk errors alike
        raise DataError(
            f"CIFAR-{num_classes} in {root!r} cannot be read: {' '.join(str(error).split())}; "
            f"remove {Path(root) / _BATCHES[num_classes]} and set download=true, or copy the files again"
        ) from error
    parts = [ArrayImages(part.data, np.array(part.targets, dtype=np.int64)) for part in (train, test)]
    return Source(parts[0], parts[1], tuple(train.classes), root=str(root))


def _decode_all(files: Images) -> ArrayImages:
    if isinstance(files, ArrayImages):
        return files
    pixels = np.empty((len(files), _SIDE, _SIDE, 3), dtype=np.uint8)
    for i in tqdm(range(len(files)), desc=f"decode {files.root.name}", unit="img", disable=None, leave=False):
        image = files.image(i, "RGB")
        if image.size != (_SIDE, _SIDE):
            raise DataError(
                f"image {files.root / files.paths[i]} is {image.size[0]}x{image.size[1]}, expected "
                f"{_SIDE}x{_SIDE} pixels; use dataset=image_folder for images of other sizes"
            )
        pixels[i] = np.asarray(image)
    return ArrayImages(pixels, files.labels)


def _class_folders(root: str, num_classes: int) -> Source:
    tree = read_image_folder(root)
    if len(tree.class_names) != num_classes:
        raise DataError(
            f"{Path(root) / 'train'} holds {len(tree.class_names)} class folders, expected {num_classes} "
            f"for cifar{num_classes}; use dataset=image_folder for other sets"
        )
    # 32x32 images fit in memory, and decoding them in every epoch would cost more than a small network.
    train, test = _decode_all(tree.train), _decode_all(tree.test)
    notes = (*tree.notes, "read from image files, which may be re-encoded: compare arms, not papers")
    return replace(tree, train=train, test=test, notes=notes)


def read_cifar(num_classes: int, data_root: str | None, download: bool) -> Source:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 RGB images of 32x32.

    Args:
        num_classes: 10 or 100.
        data_root: Folder above torchvision's ``cifar-10-batches-py`` or ``cifar-100-python``, or a folder
            with ``train/<class>/`` and ``test/<class>/`` images. ``None`` looks in ``data/cifar10``
            (``data/cifar100``) and ``data``.
        download: Fetch the files with torchvision when none are found, to ``data_root`` or ``data``.

    Raises:
        DataError: If nothing is found (listing the folders that were tried) or the files are damaged.
    """
    roots = [data_root] if data_root is not None else [f"data/cifar{num_classes}", "data"]
    looked = []
    for root in (str(Path(root).expanduser()) for root in roots):
        if Path(root, _BATCHES[num_classes]).is_dir():
            return _torchvision(root, num_classes, download=False)
        if Path(root, "train").is_dir():
            return _class_folders(root, num_classes)
        looked += [str(Path(root, _BATCHES[num_classes])), str(Path(root, "train"))]
    if download:
        return _torchvision(roots[-1], num_classes, download=True)
    raise DataError(
        f"CIFAR-{num_classes} not found (data_root={data_root!r}): looked for {', '.join(looked)}; "
        "set download=true, or set data_root to a folder that holds one of them"
    )
