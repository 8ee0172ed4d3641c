"""Arms that cannot work are told before the first step, and trying them reads no image."""

from dataclasses import replace

import pytest

from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.dry_run import check_arms


def test_every_arm_is_tried_without_an_image(recipe, splits):
    check_arms(recipe, splits)
    assert splits.train.read == splits.plain.read == splits.test.read == []


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (Arm(head="etf", frame="unoin"), r"^arm 'bad': .*did you mean 'union'"),
        (Arm(head="etf", low_rank=500), "^arm 'bad': .*low_rank"),
    ],
)
def test_the_arm_is_named(recipe, splits, arm, message):
    with pytest.raises(ValueError, match=message):
        check_arms(replace(recipe, arms={"linear": Arm(), "bad": arm}, baseline="linear"), splits)


def test_images_that_the_model_does_not_take(recipe, splits):
    with pytest.raises(
        ValueError, match=r"cannot take images of \(1, 40, 40\) \(in_chans, img_size, img_size\)"
    ):
        check_arms(replace(recipe, model="test_vit", model_kwargs={"img_size": 32}, img_size=40), splits)
