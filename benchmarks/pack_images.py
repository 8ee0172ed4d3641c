"""Pack an image folder into one file for `dataset: npz`: decoded once, small, quick to read.

python -m benchmarks.pack_images FOLDER --size 32 --out photos.npz [--train N] [--test N]

FOLDER holds train/<class>/ and test/<class>/. Images are converted to RGB and shrunk (area average) to
SIZE x SIZE. --train and --test keep that many images a class, drawn with seed 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm


def read(folder: Path, classes: list[str], size: int, keep: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, size, size, 3) uint8 and their labels (N,), class by class."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for label, name in enumerate(tqdm(classes, desc=folder.name, unit="class", disable=None)):
        files = sorted(path for path in (folder / name).iterdir() if path.is_file())
        chosen = np.sort(rng.permutation(len(files))[:keep])
        for path in (files[index] for index in chosen):
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BOX)))
            labels.append(label)
    return np.stack(images), np.array(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, help="images a class; default: all")
    parser.add_argument("--test", type=int, help="images a class; default: all")
    args = parser.parse_args()
    train = args.folder / "train"
    if not train.is_dir() or not (args.folder / "test").is_dir():
        raise SystemExit(f"{args.folder}: expected the folders train and test in it")
    classes = sorted(path.name for path in train.iterdir() if path.is_dir())
    x_train, y_train = read(train, classes, args.size, args.train)
    x_test, y_test = read(args.folder / "test", classes, args.size, args.test)
    np.savez_compressed(
        args.out,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=np.array(classes),
    )
    print(f"wrote {args.out}: {len(classes)} classes, {len(x_train)} training and {len(x_test)} test images")


if __name__ == "__main__":
    main()
