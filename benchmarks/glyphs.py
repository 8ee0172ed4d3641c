"""Draw the glyph set of the `many_classes` recipe: kanji in many fonts, tested on fonts never seen.

python -m benchmarks.glyphs --train FONT ... --test FONT ... --out glyphs.npz [--classes 1000]

FONT is a font file. Classes are the first kanji of JIS X 0208 level 1 that every font has. Each is drawn at
32x32 in every font, `--variants` times with a random affine map, blur and noise; test fonts once. The same
arguments give the same file. With Debian's packages the set of the published results is

    apt-get download fonts-{ipafont-gothic,ipafont-mincho,kiloji,motoya-l-cedar,motoya-l-maruberi,mplus}
    apt-get download fonts-{vlgothic,sawarabi-gothic,sawarabi-mincho,hanazono,umeplus,noto-cjk,klee,seto}
    apt-get download fonts-{morisawa-bizud-gothic,morisawa-bizud-mincho,lxgw-wenkai,cns11643-kai,konatu}
    for package in *.deb; do dpkg -x $package fonts; done
    python -m benchmarks.glyphs --debian fonts --out glyphs.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

SIZE = 32
TRAIN = [
    "ipag.ttf",
    "ipam.ttf",
    "kiloji.ttf",
    "MTLc3m.ttf",
    "Mplus1-Medium.otf",
    "VL-Gothic-Regular.ttf",
    "sawarabi-mincho-medium.ttf",
    "HanaMinA.ttf",
    "umeplus-gothic.ttf",
    "BIZUDGothic-Bold.ttf",
    "BIZUDMincho-Regular.ttf",
    "NotoSansCJK-Bold.ttc",
    "LXGWWenKai-Regular.ttf",
    "setofont.ttf",
    "TW-Kai-98_1.ttf",
    "Konatu.ttf",
]
TEST = ["KleeOne-Regular.ttf", "NotoSerifCJK-Bold.ttc", "sawarabi-gothic-medium.ttf", "MTLmr3m.ttf"]
_MISSING = "\U0010ffff"  # a noncharacter: every font draws its .notdef for it


def level_one() -> Iterator[str]:
    """Kanji of JIS X 0208 level 1, rows 16 to 47, in order."""
    for row in range(16, 48):
        for cell in range(1, 95):
            try:
                yield bytes((0xA0 + row, 0xA0 + cell)).decode("euc_jp")
            except UnicodeDecodeError:  # the last row is not full
                continue


def draw(font: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    """One glyph in white on black, centred by its own box, at twice the final size."""
    image = Image.new("L", (2 * SIZE, 2 * SIZE))
    left, top, right, bottom = font.getbbox(text)
    place = (SIZE - (left + right) / 2, SIZE - (top + bottom) / 2)
    ImageDraw.Draw(image).text(place, text, fill=255, font=font)
    return image


def has(font: ImageFont.FreeTypeFont, text: str, missing: bytes) -> bool:
    """Whether the font draws anything but its sign for a missing glyph."""
    image = draw(font, text)
    return image.getbbox() is not None and image.tobytes() != missing


def distort(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A random affine map, blur and noise, then down to the final size: (32, 32) uint8."""
    angle, shear = np.radians(rng.uniform(-8, 8)), rng.uniform(-0.12, 0.12)
    zoom_x, zoom_y = rng.uniform(0.92, 1.15, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[zoom_x, shear], [0, zoom_y]])
    centre = np.full(2, SIZE)
    offset = centre + rng.uniform(-4, 4, 2) - linear @ centre
    rows = np.column_stack([linear, offset]).ravel()
    image = image.transform(image.size, Image.Transform.AFFINE, tuple(rows), Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.6)))
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=float)
    return np.clip(small + rng.normal(0, rng.uniform(0, 16), small.shape), 0, 255).astype(np.uint8)


def plain(image: Image.Image) -> np.ndarray:
    """The glyph as drawn, at the final size."""
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", metavar="FONT")
    parser.add_argument("--test", type=Path, nargs="+", metavar="FONT")
    parser.add_argument("--debian", type=Path, help="folder of unpacked Debian packages, instead of both")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--variants", type=int, default=2, help="drawings of a kanji in a training font")
    args = parser.parse_args()
    if args.debian is not None:
        found = {path.name: path for path in args.debian.rglob("*") if path.is_file()}
        if lacking := [name for name in (*TRAIN, *TEST) if name not in found]:
            raise SystemExit(f"{args.debian}: no file {', '.join(lacking)}; unpack the packages listed above")
        args.train, args.test = [found[name] for name in TRAIN], [found[name] for name in TEST]
    if not (args.train and args.test):
        raise SystemExit("give --train and --test fonts, or --debian with the folder of unpacked packages")
    fonts = [ImageFont.truetype(path, size=54) for path in (*args.train, *args.test)]
    missing = [draw(font, _MISSING).tobytes() for font in fonts]
    kanji: list[str] = []
    for text in level_one():
        if len(kanji) < args.classes and all(map(has, fonts, [text] * len(fonts), missing)):
            kanji.append(text)
    if len(kanji) < args.classes:
        raise SystemExit(f"the fonts share {len(kanji)} kanji of level 1, expected {args.classes}")
    count, rng = len(args.train), np.random.default_rng(0)
    train, test = [], []
    for text in tqdm(kanji, unit="kanji", disable=None):
        drawn = [draw(font, text) for font in fonts]
        train += [distort(image, rng) for image in drawn[:count] for _ in range(args.variants)]
        test += [plain(image) for image in drawn[count:]]
    labels = np.arange(len(kanji))
    np.savez_compressed(
        args.out,
        x_train=np.stack(train),
        y_train=labels.repeat(len(train) // len(kanji)),
        x_test=np.stack(test),
        y_test=labels.repeat(len(test) // len(kanji)),
        class_names=np.array(kanji),
    )
    print(f"wrote {args.out}: {len(kanji)} classes, {len(train)} training and {len(test)} test images")


if __name__ == "__main__":
    main()
