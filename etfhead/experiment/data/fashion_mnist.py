"""Fashion-MNIST from its four idx files, wherever they were installed or downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.idx import read_idx
from etfhead.experiment.data.images import ArrayImages, Source

__all__ = ["read_fashion_mnist"]

_FILES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_COMMON = ("data/fashion_mnist", "data", "/usr/share/datasets/fashion-mnist")
_BELOW = (".", "FashionMNIST/raw", "fashion_mnist", "fashion-mnist", "raw")


def _find(folder: Path) -> dict[str, Path]:
    found = {}
    for part, stem in _FILES.items():
        for name in (stem, f"{stem}.gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz"):
            if (folder / name).is_file():
                found[part] = folder / name
                break
    return found


def _search(roots: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    incomplete = []
    for root in roots:
        for below in _BELOW:
            folder = Path(root).expanduser() / below
            files = _find(folder)
            if len(files) == len(_FILES):
                return files, []
            if files:
                missing = [stem for part, stem in _FILES.items() if part not in files]
                incomplete.append(f"{folder} lacks {', '.join(missing)}")
    return {}, incomplete


def _download(root: str) -> None:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(root, download=True)
    except Exception as error:  # urllib, socket, checksum and disk errors alike
        raise DataError(
            f"download of Fashion-MNIST to {root!r} failed: {' '.join(str(error).split())}; "
            "check the connection or fetch the files by hand and set data_root"
        ) from error


def _part(files: dict[str, Path], part: str) -> ArrayImages:
    pixels = read_idx(files[f"{part} images"], ndim=3)
    labels = read_idx(files[f"{part} labels"], ndim=1)
    if len(pixels) != len(labels):
        raise DataError(
            f"{files[f'{part} images']} holds {len(pixels)} images but {files[f'{part} labels']} holds "
            f"{len(labels)} labels; fetch both files again"
        )
    if len(labels) == 0:
        raise DataError(f"{files[f'{part} images']} holds no images; fetch the files again")
    if labels.max() >= len(_NAMES):
        bad = int(np.argmax(labels >= len(_NAMES)))
        raise DataError(
            f"{files[f'{part} labels']}: label {labels[bad]} of item {bad} is out of range, "
            f"expected 0..{len(_NAMES) - 1}; fetch the file again"
        )
    return ArrayImages(pixels, labels.astype(np.int64))


def read_fashion_mnist(data_root: str | None, download: bool) -> Source:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747): 60,000 + 10,000 gray images of 28x28.

    Args:
        data_root: Folder with the four idx files (plain or .gz), or above torchvision's
            ``FashionMNIST/raw``. ``None`` looks in ``data/`` and where Debian installs them.
        download: Fetch the files with torchvision when none are found, to ``data_root`` or ``data``.

    Raises:
        DataError: If the files are missing (listing the folders that were tried), damaged or inconsistent.
    """
    roots = _COMMON if data_root is None else (data_root,)
    files, incomplete = _search(roots)
    if not files and download:
        _download(data_root or "data")
        files, incomplete = _search((data_root or "data",))
    if not files:
        found = f" ({'; '.join(incomplete)})" if incomplete else ""
        raise DataError(
            f"Fashion-MNIST not found in {', '.join(roots)} or {', '.join(_BELOW[1:])} below{found}: "
            "set download=true, or run `apt install dataset-fashion-mnist` (Debian, Ubuntu), or set "
            f"data_root to a folder with {', '.join(_FILES.values())} (plain or .gz)"
        )
    train, test = _part(files, "train"), _part(files, "test")
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise DataError(
            f"{files['test images']}: images are {test.pixels.shape[1:]}, but those of "
            f"{files['train images']} are {train.pixels.shape[1:]}; the files belong to different sets"
        )
    return Source(train, test, _NAMES, root=str(files["train images"].parent))
