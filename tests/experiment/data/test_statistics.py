from __future__ import annotations

import numpy as np
import pytest

from etfhead.experiment.data.images import ArrayImages, FileImages
from etfhead.experiment.data.statistics import channel_statistics, choose_normalization

LABELS = np.zeros(5000, dtype=np.int64)


def _images(*shape: int) -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return ArrayImages(pixels, LABELS[: shape[0]])


@pytest.mark.parametrize("shape", [(5000, 3, 2), (5000, 3, 2, 3), (7, 4, 4, 3)])
def test_statistics_equal_float64_mean_and_std(shape):
    images = _images(*shape)
    flat = images.pixels.reshape(-1, shape[3] if len(shape) == 4 else 1) / 255
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, flat.std(0), rtol=1e-12)


def test_a_flat_channel_can_still_be_divided_by():
    assert channel_statistics(ArrayImages(np.full((4, 2, 2), 9, dtype=np.uint8), LABELS[:4]))[1] == (1 / 255,)


def test_gray_statistics_are_repeated_for_rgb_models(make_recipe):
    norm = choose_normalization(make_recipe(in_chans=3), _images(20, 4, 4))
    assert norm.mean[0] == norm.mean[1] == norm.mean[2]
    assert len(norm.std) == 3
    assert norm.origin == "training part"


def test_recipe_then_pretrained_model_then_data(make_recipe):
    images = _images(20, 4, 4, 3)
    given = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 2.0)}
    assert choose_normalization(make_recipe(**given, pretrained=True), images).mean == (0.1, 0.2, 0.3)
    # Google's EfficientNet weights were trained on pixels in -1..1.
    pretrained = choose_normalization(make_recipe(model="tf_efficientnet_lite0", pretrained=True), images)
    assert (pretrained.mean, pretrained.std) == ((0.5,) * 3, (0.5,) * 3)
    assert choose_normalization(make_recipe(), images).mean == channel_statistics(images)[0]


def test_files_fall_back_to_imagenet(make_recipe, tmp_path):
    none = np.zeros(0, dtype=np.int64)
    files = FileImages(tmp_path, none.astype(object), none, none)
    assert choose_normalization(make_recipe(), files).std == (0.229, 0.224, 0.225)
    assert choose_normalization(make_recipe(in_chans=1), files).mean == pytest.approx((0.449,))
