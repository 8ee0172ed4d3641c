"""1,797 handwritten digits of scikit-learn, as images that any model takes: the data of all examples here."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

# A smoke run, as the tests make it, looks at the first few images once.
IMAGES = int(os.environ.get("EXAMPLE_IMAGES", "1797"))
EPOCHS = int(os.environ.get("EXAMPLE_EPOCHS", "4"))


def output(description: str | None, default: str) -> str:
    """Where an example writes its trained model: ``--out``, beside ``--help``."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=layout)
    parser.add_argument("--out", default=default, help="where the trained model goes (%(default)s)")
    out: str = parser.parse_args().out
    return out


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Training and test part, images (3, 32, 32) with mean 0 and deviation 1."""
    images, target = load_digits(return_X_y=True)
    images = torch.tensor(images[:IMAGES], dtype=torch.float32).view(-1, 1, 8, 8)
    images = torch.nn.functional.interpolate((images - 4.884) / 6.017, size=32).expand(-1, 3, -1, -1)
    target, cut = torch.tensor(target[:IMAGES]), IMAGES * 3 // 4
    return TensorDataset(images[:cut], target[:cut]), TensorDataset(images[cut:], target[cut:])


def write_image_folder(root: Path) -> Path:
    """The same as root/{train,validation}/<digit>/<number>.png."""
    from torchvision.transforms.functional import to_pil_image

    for split, data in zip(("train", "validation"), digits(), strict=True):
        for index, (image, label) in enumerate(data):
            path = root / split / str(int(label)) / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image((image * 6.017 + 4.884) / 16).save(path)
    return root
