"""Pack Debian's clip art into one file for `dataset: multilabel_npz`: public-domain images with keywords.

python -m benchmarks.pack_clipart FOLDER --size 64 --out clipart.npz [--least 40]

FOLDER holds the unpacked packages (187 MB to fetch, no root needed):

    apt-get download openclipart-png openclipart-svg
    for package in openclipart-*.deb; do dpkg -x $package clipart; done

The keywords of an SVG (dc:subject) are the labels of the PNG of the same name. Left out: shapes/stars and
unsorted (series of near-copies, and no keywords), PNGs above 20 megapixels, images without a label. Images
that shrink to the same pixels are one image with the labels of all. Labels on at least --least images stay.
The split (70 % train, 10 % val, 20 % test) is part of the file; the same arguments give the same file.
"""

from __future__ import annotations

import argparse
import html
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from etfhead.experiment.data.multilabel_splits import iterative_split

LEFT_OUT = ("shapes/stars/", "unsorted/")
NOT_LABELS = {"", "hash", "unsorted", "architetto francesco rollandin"}  # remains of a script; an author
MOST_PIXELS = 20_000_000
SHARES = (0.7, 0.1, 0.2)

# Two patterns instead of an XML parser: no entity is ever expanded.
_SUBJECT = re.compile(r"<dc:subject\b[^>]*>(.*?)</dc:subject>", re.DOTALL)
_KEYWORD = re.compile(r"<rdf:li\b[^>/]*>([^<]*)</rdf:li>")


def keywords(svg: str) -> set[str]:
    """Keywords in the metadata of an SVG, in lower case.

    >>> keywords("<dc:subject><rdf:Bag><rdf:li>Bird </rdf:li><rdf:li>hash</rdf:li></rdf:Bag></dc:subject>")
    {'bird'}
    """
    found = {
        " ".join(html.unescape(word).split()).lower()
        for bag in _SUBJECT.findall(svg)
        for word in _KEYWORD.findall(bag)
    }
    return found - NOT_LABELS


def thumbnail(path: Path, size: int) -> np.ndarray | None:
    """The image on a white square, (size, size, 3) uint8; None if it has too many pixels."""
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        try:
            opened = Image.open(path)  # reads the size alone
        except Image.DecompressionBombError:
            return None
    with opened as image:
        if image.width * image.height > MOST_PIXELS:
            return None
        colour = image.convert("RGBA")
    scale = size / max(colour.size)
    small = colour.resize(
        tuple(max(1, round(scale * side)) for side in colour.size), Image.Resampling.BOX
    )  # Pillow weighs colours by alpha here
    square = Image.new("RGBA", (size, size), "white")
    square.alpha_composite(small, ((size - small.width) // 2, (size - small.height) // 2))
    return np.asarray(square.convert("RGB"))


def collect(folder: Path, size: int) -> tuple[list[np.ndarray], list[set[str]], Counter[str]]:
    """Distinct images, their keywords, and counts of what was left out."""
    root = next(
        iter(sorted(path.parent for path in folder.rglob("png") if (path.parent / "svg").is_dir())), None
    )
    if root is None:
        raise SystemExit(f"{folder}: no folder with png/ and svg/ in it; unpack both packages there")
    images: list[np.ndarray] = []
    labels: list[set[str]] = []
    position: dict[bytes, int] = {}
    counts: Counter[str] = Counter()
    for path in tqdm(sorted((root / "png").rglob("*.png")), unit="img", disable=None):
        name = path.relative_to(root / "png").with_suffix(".svg").as_posix()
        svg = root / "svg" / name
        if name.startswith(LEFT_OUT):
            counts["in shapes/stars or unsorted"] += 1
        elif not svg.is_file():
            counts["without an SVG"] += 1
        elif (small := thumbnail(path, size)) is None:
            counts["above 20 megapixels"] += 1
        else:
            words = keywords(svg.read_text(encoding="utf-8", errors="replace"))
            at = position.setdefault(small.tobytes(), len(images))
            if at < len(images):
                counts["duplicates"] += 1
                labels[at] |= words
            else:
                images.append(small)
                labels.append(words)
    return images, labels, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--least", type=int, default=40, help="images that a label needs to stay")
    args = parser.parse_args()
    images, words, counts = collect(args.folder, args.size)
    frequency = Counter(word for of_image in words for word in of_image)
    names = sorted(word for word, count in frequency.items() if count >= args.least)
    if len(names) < 2:
        raise SystemExit(
            f"{len(names)} label(s) on at least {args.least} images, expected two; lower --least"
        )
    targets = np.array([[name in of_image for name in names] for of_image in words], dtype=np.int64)
    labelled = np.flatnonzero(targets.any(1))
    counts["without a frequent label"] = len(images) - len(labelled)
    targets = targets[labelled]
    part = iterative_split(targets, SHARES, 0, names)
    np.savez_compressed(
        args.out,
        images=np.stack([images[i] for i in labelled]),
        labels=targets.astype(np.uint8),
        class_names=np.array(names),
        split=np.array(("train", "val", "test"))[part],
    )
    print(
        f"wrote {args.out}: {len(labelled)} images, {len(names)} labels, {targets.sum(1).mean():.2f} an image"
    )
    print(f"train, val, test: {np.bincount(part).tolist()}; left out: {dict(counts)}")
    positives = targets.sum(0)
    order = np.argsort(-positives, kind="stable")
    print("images a label: " + ", ".join(f"{names[k]} {positives[k]}" for k in order))


if __name__ == "__main__":
    main()
