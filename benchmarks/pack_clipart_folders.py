"""Pack Debian's clip art by folder into one file for `dataset: npz`: a long tail that nobody made.

python -m benchmarks.pack_clipart_folders FOLDER --size 64 --out clipart_folders.npz [--least 26] [--test 12]

FOLDER holds the unpacked package (131 MB to fetch, no root needed):

    apt-get download openclipart-png
    dpkg -x openclipart-png*.deb clipart

An image's class is the first folder below png/. Left out: shapes/stars and unsorted (series of near-copies,
and no class), PNGs above 20 megapixels, and images that shrink to the same pixels as an earlier one. Classes
of at least --least images stay; --test images of each, drawn with seed 0, are the test part.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.pack_clipart import LEFT_OUT, thumbnail


def collect(folder: Path, size: int) -> tuple[list[np.ndarray], list[str], Counter[str]]:
    """Distinct images, their folders, and counts of what was left out."""
    root = next(iter(sorted(path for path in folder.rglob("png") if path.is_dir())), None)
    if root is None:
        raise SystemExit(f"{folder}: no folder png/ in it; unpack the package there")
    images: list[np.ndarray] = []
    classes: list[str] = []
    seen: set[bytes] = set()
    counts: Counter[str] = Counter()
    for path in tqdm(sorted(root.rglob("*.png")), unit="img", disable=None):
        name = path.relative_to(root).as_posix()
        if name.startswith(LEFT_OUT):
            counts["in shapes/stars or unsorted"] += 1
        elif "/" not in name:
            counts["in no folder"] += 1
        elif (small := thumbnail(path, size)) is None:
            counts["above 20 megapixels"] += 1
        elif small.tobytes() in seen:
            counts["duplicates"] += 1
        else:
            seen.add(small.tobytes())
            images.append(small)
            classes.append(name.split("/", 1)[0])
    return images, classes, counts


def split(classes: list[str], least: int, test: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the classes that stay, frequent first; positions of the training and of the test part."""
    frequency = Counter(classes)
    names = sorted((name for name, n in frequency.items() if n >= least), key=lambda n: (-frequency[n], n))
    if len(names) < 2:
        raise SystemExit(f"{len(names)} class(es) of at least {least} images, expected two; lower --least")
    rng = np.random.default_rng(0)
    parts: tuple[list[int], list[int]] = ([], [])
    for name in names:
        members = rng.permutation([i for i, found in enumerate(classes) if found == name]).tolist()
        parts[0].extend(sorted(members[test:]))
        parts[1].extend(sorted(members[:test]))
    return names, np.array(parts[0]), np.array(parts[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--least", type=int, default=26, help="images that a class needs to stay")
    parser.add_argument("--test", type=int, default=12, help="test images of each class, fewer than --least")
    args = parser.parse_args()
    if not 0 < args.test < args.least:
        raise SystemExit(f"--test {args.test}: expected 1 to {args.least - 1}, fewer than --least")
    images, classes, counts = collect(args.folder, args.size)
    names, train, test = split(classes, args.least, args.test)
    label = {name: k for k, name in enumerate(names)}
    arrays = {}
    for part, positions in (("train", train), ("test", test)):
        arrays[f"x_{part}"] = np.stack([images[i] for i in positions])
        arrays[f"y_{part}"] = np.array([label[classes[i]] for i in positions])
    np.savez_compressed(args.out, class_names=np.array(names), **arrays)
    print(f"wrote {args.out}: {len(train)} training and {len(test)} test images; left out: {dict(counts)}")
    print("training images a class: ", end="")
    found = np.bincount(arrays["y_train"])
    print(", ".join(f"{name} {n}" for name, n in zip(names, found, strict=True)))


if __name__ == "__main__":
    main()
