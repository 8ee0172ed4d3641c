"""Recipes back to YAML, and their smoke versions."""

import dataclasses

import pytest
import yaml

from etfhead.experiment.recipe import Arm
from etfhead.experiment.schema import dump_recipe, load_recipe, recipe_from_dict, recipe_to_dict, smoke

FULL = {
    "name": "full",
    "description": "text that YAML could misread: # & * 1e-3 'quotes' \"double\" \\ äöü 漢字",
    "model": "1e5",
    "pretrained": True,
    "img_size": 224,
    "in_chans": 1,
    "drop": 0.1,
    "model_kwargs": {"a": "no", "b": {"c": [1e-7, "1e-7", None, True, "a\nb"]}, "1": "2024-01-01"},
    "dataset": "image_folder",
    "data_root": "~/a b: c",
    "no_aug": False,
    "crop_padding": 4,
    "aa": "rand-m9-mstd0.5",
    "mean": (0.1,),
    "std": (1 / 3,),
    "mixup": 0.2,
    "epochs": 3,
    "lr": 1e-5,
    "weight_decay": 1e-20,
    "clip_grad": 1e16,
    "amp_dtype": "bfloat16",
    "seeds": (0, 4294967295),
    "arms": {
        "null": {"head": "linear", "neck": "none"},
        "1e3": {"head": "etf", "scale": "auto", "learn_scale": False, "frame": "simplex"},
        "no": {
            "head": "etf",
            "loss": "dot_regression",
            "normalize": True,
            "scale": 0.1,
            "learn_scale": False,
        },
    },
    "baseline": "null",
    "target_accuracy": 99.9,
}
REQUIRED = ("name", "model", "img_size", "dataset", "data_root", "epochs", "arms", "baseline")


@pytest.mark.parametrize("values", [FULL, {key: FULL[key] for key in REQUIRED}])
def test_dump_loads_back_to_an_equal_recipe(values, write):
    recipe = recipe_from_dict(values)
    text = dump_recipe(recipe)
    assert load_recipe(write(text)) == recipe
    # The report and other tools read run folders with plain PyYAML.
    assert recipe_from_dict(yaml.safe_load(text)) == recipe
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_what_is_shared_is_written_out_because_recipes_have_no_anchors(write):
    shared = [8, [8]]
    recipe = load_recipe("quickstart", [])
    recipe = dataclasses.replace(recipe, model_kwargs={"widths": shared, "linear_widths": shared})
    text = dump_recipe(recipe)
    assert "&" not in text.partition("model_kwargs:")[2].partition("\n")[0]
    assert yaml.safe_load(text)["model_kwargs"] == {"widths": shared, "linear_widths": shared}
    assert load_recipe(str(write(text))).model_kwargs == recipe.model_kwargs


def test_dump_shows_and_explains_every_knob():
    recipe = recipe_from_dict(FULL)
    lines = dump_recipe(recipe).splitlines()
    for field in dataclasses.fields(recipe):
        line = next(line for line in lines if line.startswith(f"{field.name}:"))
        assert field.name == "arms" or line.endswith(f"# {field.metadata['help']}")
    for field in dataclasses.fields(Arm):
        assert any(line.startswith("#") and field.metadata["help"] in line for line in lines)


def test_smoke_keeps_what_is_compared_and_drops_what_costs():
    recipe = recipe_from_dict({**FULL, "warmup_epochs": 2, "smoothing": 0.1, "model_ema": True})
    small = smoke(recipe)
    kept = (
        "arms",
        "baseline",
        "aa",
        "mixup",
        "smoothing",
        "opt",
        "sched",
        "lr",
        "model_ema",
        "clip_grad",
        "no_aug",
    )
    for key in kept:
        assert getattr(small, key) == getattr(recipe, key)
    assert (small.dataset, small.model, small.epochs, small.warmup_epochs) == (
        "synthetic",
        "test_efficientnet",
        2,
        1,
    )
    assert (small.cpu, small.pretrained, small.download, small.amp_dtype) == (True, False, False, None)
    assert (small.mean, small.std, small.data_root, small.model_kwargs) == (None, None, None, {})
    assert small.batch_size <= 32
    assert smoke(small).arms == recipe.arms


@pytest.mark.parametrize(
    ("seeds", "expected"), [((3, 4, 5), (3, 4)), ((7,), (7, 8)), ((2**32 - 1,), (2**32 - 1, 0))]
)
def test_smoke_has_two_seeds(seeds, expected):
    assert smoke(recipe_from_dict({**FULL, "seeds": seeds})).seeds == expected
