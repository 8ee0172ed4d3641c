from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from etfhead.experiment.data.fetch import KeyedCropFlip, PreparedFetch, prepare
from etfhead.experiment.data.images import ArrayImages, to_gray
from etfhead.experiment.data.rng import preserved_rng, seed_all
from etfhead.experiment.data.statistics import Normalization
from etfhead.experiment.data.transforms import _version, eval_transform, train_transform

RNG = np.random.default_rng(0)
NORM = {
    1: Normalization((0.3,), (0.7,), "test"),
    3: Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "test"),
}


def _images(n: int, height: int, width: int, channels: int) -> ArrayImages:
    shape = (n, height, width) if channels == 1 else (n, height, width, channels)
    return ArrayImages(RNG.integers(0, 256, shape, dtype=np.uint8), np.zeros(n, dtype=np.int64))


def test_gray_equals_pillow_for_every_kind_of_pixel():
    pixels = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels[0, :6] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [1, 1, 1]]
    assert to_gray(pixels).tolist() == np.asarray(Image.fromarray(pixels).convert("L")).tolist()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("side", "size", "crop_pct"), [(8, 8, 1.0), (8, 16, 1.0), (20, 8, 0.875), (16, 16, 0.5)]
)
@pytest.mark.parametrize(("stored", "in_chans"), [(1, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_prepared_images_equal_timms_own_transform(
    make_recipe, train, side, size, crop_pct, stored, in_chans, interpolation
):
    images = _images(5, side, side, stored)
    recipe = make_recipe(img_size=size, crop_pct=crop_pct, in_chans=in_chans, interpolation=interpolation)
    norm = NORM[in_chans]
    theirs = create_transform(
        size, is_training=train, no_aug=True, interpolation=interpolation, crop_pct=crop_pct,
        mean=norm.mean, std=norm.std,
    )  # fmt: skip
    ours = PreparedFetch(prepare(images, recipe, train), norm)([4, 0, 2], ())
    for image, index in zip(ours, [4, 0, 2], strict=True):
        expected = theirs(images.image(index, "L" if in_chans == 1 else "RGB"))
        assert image.shape == (in_chans, size, size)
        assert image.equal(expected)


def test_images_that_are_not_square_are_cropped_in_the_centre(make_recipe):
    images = _images(2, 10, 30, 3)
    expected = create_transform(10, mean=NORM[3].mean, std=NORM[3].std, crop_pct=1.0)(images.image(1, "RGB"))
    ours = PreparedFetch(prepare(images, make_recipe(img_size=10), train=False), NORM[3])([1], ())
    assert ours[0].equal(expected)
    assert eval_transform(make_recipe(img_size=10), NORM[3])(images.image(1, "RGB")).equal(expected)


def _draw(transform, image: Image.Image, key: int) -> torch.Tensor:
    with preserved_rng():
        seed_all(key)
        return transform(image)


def test_augmentation_is_timms_with_the_recipes_arguments(make_recipe):
    fields = {
        "scale": (0.3, 0.9),
        "ratio": (0.8, 1.2),
        "hflip": 0.3,
        "vflip": 0.6,
        "interpolation": "bicubic",
    }
    recipe = make_recipe(img_size=16, no_aug=False, aa="rand-m9-mstd0.5", reprob=0.5, **fields)
    theirs = create_transform(
        16, is_training=True, auto_augment="rand-m9-mstd0.5", re_prob=0.5, color_jitter=None,
        mean=NORM[3].mean, std=NORM[3].std, **fields,
    )  # fmt: skip
    image = _images(1, 24, 24, 3).image(0, "RGB")
    drawn = [_draw(train_transform(recipe, NORM[3]), image, key) for key in range(30)]
    for key, ours in enumerate(drawn):
        assert ours.equal(_draw(theirs, image, key))
    assert len({tuple(d.flatten().tolist()) for d in drawn}) == 30


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("changes", [
    {"aa": "rand-m9-mstd0.5-inc1"}, {"aa": "original"}, {"aa": "augmix-m3-w3"}, {"aa": "3a"},
    {"color_jitter": 0.4}, {"reprob": 1.0}, {"vflip": 0.5},
])  # fmt: skip
@pytest.mark.parametrize("crop_padding", [0, 2])
def test_every_option_works_with_gray_and_colour(make_recipe, in_chans, changes, crop_padding):
    recipe = make_recipe(img_size=16, no_aug=False, in_chans=in_chans, crop_padding=crop_padding, **changes)
    if in_chans == 1 and "augmix" in changes.get("aa", "") and _version(timm.__version__) < (1, 0, 30):
        pytest.skip(f"timm {timm.__version__} cannot mix grey images; 1.0.30 can")
    transform = train_transform(recipe, NORM[in_chans])
    image = _images(1, 20, 20, 3).image(0, "L" if in_chans == 1 else "RGB")
    for key in range(25):
        out = _draw(transform, image, key)
        assert out.shape == (in_chans, 16, 16)
        assert out.isfinite().all()


def test_augmix_of_grey_images_needs_a_timm_that_can(make_recipe, monkeypatch):
    grey = make_recipe(img_size=16, no_aug=False, in_chans=1, aa="augmix-m3-w3")
    monkeypatch.setattr(timm, "__version__", "1.0.29")
    with pytest.raises(ValueError, match=r"aa='augmix-m3-w3': .*before timm 1\.0\.30, and 1\.0\.29 is"):
        train_transform(grey, NORM[1])
    for fine in (replace(grey, aa="augmix-m3-w3-b1"), replace(grey, in_chans=3), replace(grey, aa="3a")):
        train_transform(fine, NORM[fine.in_chans])
    for version in ("1.0.30", "1.0.31.dev0", "1.1.0"):
        monkeypatch.setattr(timm, "__version__", version)
        train_transform(grey, NORM[1])


def test_unknown_auto_augment(make_recipe):
    recipe = make_recipe(no_aug=False, aa="no-such-policy")
    with pytest.raises(
        ValueError, match=r"cannot build the augmentation aa='no-such-policy': .*such as rand-m9"
    ):
        train_transform(recipe, NORM[3])


def test_padded_crop_replaces_the_random_resized_crop(make_recipe):
    """Every output of the Pillow path is a window of the zero-padded image, perhaps mirrored."""
    image = _images(1, 6, 6, 3)
    recipe = make_recipe(img_size=6, no_aug=False, crop_padding=2)
    plain = Normalization((0.0,) * 3, (1.0,) * 3, "test")
    transform = train_transform(recipe, plain)
    windows = _windows(torch.from_numpy(image.pixels.transpose(0, 3, 1, 2).copy())[0], 2)
    for key in range(40):
        out = (_draw(transform, image.image(0, "RGB"), key) * 255).round().to(torch.uint8)
        assert tuple(out.flatten().tolist()) in windows


def _windows(image: torch.Tensor, padding: int, vflip: bool = False) -> dict[tuple[int, ...], int]:
    """Every crop of the zero-padded image and its mirror images, numbered."""
    side = image.shape[-1]
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    found: dict[tuple[int, ...], int] = {}
    for y in range(2 * padding + 1):
        for x in range(2 * padding + 1):
            window = padded[:, y : y + side, x : x + side]
            for mirrored in (
                window,
                window.flip(-1),
                *([window.flip(-2), window.flip(-1, -2)] if vflip else []),
            ):
                found[tuple(mirrored.flatten().tolist())] = len(found)
    return found


def test_keyed_crop_flip_draws_every_window_equally_often():
    image = torch.from_numpy(RNG.integers(1, 256, (3, 6, 6), dtype=np.uint8))
    windows = _windows(image, 2, vflip=True)
    assert len(windows) == 100
    keys = RNG.integers(0, 2**63, 20_000)
    out = KeyedCropFlip(2, 0.5, 0.5)(image.expand(len(keys), -1, -1, -1), keys.tolist())
    counts = np.bincount([windows[tuple(row)] for row in out.flatten(1).tolist()], minlength=100)
    # Chi-square with 99 degrees of freedom: mean 99, standard deviation 14.
    assert 50 < ((counts - 200) ** 2 / 200).sum() < 165


@pytest.mark.parametrize(("hflip", "vflip", "dims"), [(0.0, 0.0, ()), (1.0, 0.0, (-1,)), (0.0, 1.0, (-2,))])
def test_keyed_flip_probabilities_zero_and_one(hflip, vflip, dims):
    images = torch.from_numpy(RNG.integers(0, 256, (50, 1, 5, 5), dtype=np.uint8))
    out = KeyedCropFlip(0, hflip, vflip)(images, list(range(50)))
    assert out.equal(images.flip(dims) if dims else images)


def test_keyed_crop_flip_is_the_same_alone_and_in_a_batch():
    images = torch.from_numpy(RNG.integers(0, 256, (30, 3, 7, 7), dtype=np.uint8))
    keys = RNG.integers(0, 2**63, 30).tolist()
    augment = KeyedCropFlip(2, 0.5, 0.2)
    batch = augment(images, keys)
    alone = [augment(images[i : i + 1], keys[i : i + 1])[0] for i in range(30)]
    assert batch.equal(torch.stack(alone))
