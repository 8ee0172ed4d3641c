from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from etfhead.errors import DataError
from etfhead.experiment.data import load_data
from etfhead.experiment.data.decode import decode_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)


def _saved(tmp_path, image: Image.Image, name: str = "x.png"):
    image.save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("stored", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_the_one_asked_for(tmp_path, mode, stored):
    name = "x.tif" if stored == "CMYK" else "x.png"
    image = Image.fromarray(RGB).convert("L" if stored == "I;16" else stored)
    if stored == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    decoded = decode_image(_saved(tmp_path, image, name), mode)
    assert (decoded.mode, decoded.size) == (mode, (7, 9))


def test_rgb_is_exact(tmp_path):
    assert np.asarray(decode_image(_saved(tmp_path, Image.fromarray(RGB)), "RGB")).tolist() == RGB.tolist()


def test_gray_is_repeated_in_rgb(tmp_path):
    pixels = np.asarray(decode_image(_saved(tmp_path, Image.fromarray(RGB[..., 0])), "RGB"))
    assert pixels.tolist() == np.repeat(RGB[..., :1], 3, axis=2).tolist()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    path = _saved(tmp_path, Image.fromarray(values))
    assert np.asarray(decode_image(path, "L")).tolist() == [[0, 1, 128, 255]]


def test_thirty_two_bit_integers_beyond_sixteen_bits_are_refused(tmp_path):
    path = _saved(tmp_path, Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)), "x.tif")
    with pytest.raises(DataError, match=r"integer pixels span 0\.\.70000"):
        decode_image(path, "L")


def test_float_pixels_are_refused(tmp_path):
    path = _saved(tmp_path, Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)), "x.tif")
    with pytest.raises(DataError, match="floating-point pixels have no defined range"):
        decode_image(path, "RGB")


def test_transparency_is_laid_over_white(tmp_path):
    # Black ink: hidden (alpha 0), half visible, visible.
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = [0, 128, 255]
    assert np.asarray(decode_image(_saved(tmp_path, Image.fromarray(rgba)), "L")).tolist() == [[255, 127, 0]]


def test_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    path = tmp_path / "x.png"
    image.save(path, transparency=0)
    assert np.asarray(decode_image(path, "RGB")).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def _garble(path):
    path.write_bytes(b"certainly not an image")


def _spoil_checksum(path):
    data = bytearray(path.read_bytes())
    data[45] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(("suffix", "damage"), [
    ("png", _truncate), ("png", _garble), ("png", _spoil_checksum), ("jpg", _truncate), ("jpg", _garble),
])  # fmt: skip
def test_damaged_files_are_named_in_one_line(tmp_path, suffix, damage):
    big = Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    path = _saved(tmp_path, big, f"x.{suffix}")
    damage(path)
    with pytest.raises(DataError, match="cannot decode image") as caught:
        decode_image(path, "RGB")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot decode image .*gone\.png: FileNotFoundError"):
        decode_image(tmp_path / "gone.png", "RGB")


def test_decompression_bombs_are_errors(tmp_path, monkeypatch):
    path = _saved(tmp_path, Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # 63 pixels: more than the limit, less than twice
    with pytest.raises(DataError, match="DecompressionBombWarning"):
        decode_image(path, "RGB")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="DecompressionBombError"):
        decode_image(path, "RGB")


def test_corrupt_image_in_a_tree_is_named_when_it_is_read(tmp_path, image_tree, make_recipe):
    root = image_tree(tmp_path)
    (root / "test/dog/1.png").write_bytes(b"\x89PNG broken")
    recipe = make_recipe(dataset="image_folder", data_root=str(root), unreadable_images="unchecked")
    splits = load_data(recipe)
    with pytest.raises(DataError, match=r"test/dog/1\.png"):
        splits.test[6]
