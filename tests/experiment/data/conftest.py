"""Small data sets on disk and recipes over them."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from etfhead.experiment.recipe import Arm, Recipe


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    def make(**changes: Any) -> Recipe:
        fields = {
            "name": "t",
            "model": "test_resnet",
            "img_size": 8,
            "epochs": 1,
            "arms": {"a": Arm()},
            "baseline": "a",
            "dataset": "synthetic",
        }
        return Recipe(**{**fields, **changes})

    return make


def idx_bytes(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def write_idx() -> Callable[..., Path]:
    """Write the four files of a tiny Fashion-MNIST: 12 training and 4 test images of each of 10 classes."""

    def write(folder: Path, *, zipped: bool = False, seed: int = 0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        for stem, each in (("train", 12), ("t10k", 4)):
            labels = np.tile(np.arange(10), each)
            images = rng.integers(0, 256, (len(labels), 28, 28))
            for kind, array in (("labels-idx1", labels), ("images-idx3", images)):
                data = idx_bytes(array)
                name = f"{stem}-{kind}-ubyte"
                if zipped:
                    (folder / f"{name}.gz").write_bytes(gzip.compress(data, 1))
                else:
                    (folder / name).write_bytes(data)
        return folder

    return write


@pytest.fixture
def image_tree() -> Callable[..., Path]:
    """Write random PNGs: root/<part>/<class>/<i>.png."""

    def write(
        root: Path,
        *,
        classes: tuple[str, ...] = ("cat", "dog", "eel"),
        parts: tuple[str, ...] = ("train", "test"),
        each: int = 5,
        side: int = 12,
    ) -> Path:
        rng = np.random.default_rng(7)
        for part in parts:
            for name in classes:
                folder = root / part / name
                folder.mkdir(parents=True)
                for i in range(each):
                    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i}.png")
        return root

    return write
