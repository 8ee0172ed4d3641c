"""Every shipped recipe: loads, says how to run it, builds with the installed timm, and shrinks."""

import re
import shlex

import numpy as np
import pytest
import yaml

from etfhead.experiment.preflight import check_buildable
from etfhead.experiment.schema import dump_recipe, list_recipes, load_recipe, recipe_from_dict, smoke
from tests.older_timm import runnable

RECIPES = list_recipes()
NEEDS_DATA = {"fine_tune": 10, "many_classes": 1000, "orientation": 1000}
NEEDS_DATA |= {"few_classes_photos": 100, "many_classes_photos": 100}  # and the number of classes
NEEDS_DATA |= {"multilabel_real": 71, "regression_real": 3}
NEEDS_DATA |= {"long_tail_real": 17}
each_recipe = pytest.mark.parametrize("info", RECIPES, ids=lambda info: info.name)


def test_the_promised_recipes_are_there():
    names = {info.name for info in RECIPES}
    assert {"quickstart", "fashion_mnist", "head_options", "cifar10_gpu", "cifar100_gpu"} <= names
    assert NEEDS_DATA.keys() <= names


@each_recipe
def test_loads_and_round_trips(info, tmp_path):
    recipe = load_recipe(info.name)
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(str(path)) == recipe


@each_recipe
def test_reads_the_same_with_plain_pyyaml(info):
    assert recipe_from_dict(yaml.safe_load(info.path.read_text())) == load_recipe(info.name)


@each_recipe
def test_name_is_the_files_and_description_fits_a_line(info):
    recipe = load_recipe(info.name)
    assert recipe.name == info.path.stem
    assert recipe.description == info.description
    assert 0 < len(info.description) <= 65


@each_recipe
def test_header_holds_commands_that_parse_and_the_cost(info):
    text = info.path.read_text()
    header = text[: text.index("\nname:")]
    assert all(line.startswith("#") or not line for line in header.splitlines())
    found = re.findall(r"(etfhead .*?)(?:  .*)?$", header, re.MULTILINE)
    commands = [shlex.split(command) for command in found]
    assert commands[0][:3] == ["etfhead", "run", info.name]
    if info.name in NEEDS_DATA:
        assert all("data_root=" in " ".join(c) for c in commands if c[1] == "run")
    else:
        assert commands[0][3:] == []
    for _, verb, name, *rest in commands:
        assert name == info.name
        if verb in ("run", "show"):
            load_recipe(name, rest)
    assert info.takes
    for word in ("Run:", "Takes:", "Data:", "Expect:"):
        assert f"# {word}" in header


def a_place_with_classes(folder, dataset, classes):
    """Labels without images, or class folders of files that are no images: enough to count classes."""
    if dataset == "multilabel_npz":
        np.savez(folder / "set.npz", labels=np.eye(classes, dtype=np.uint8))
        return folder / "set.npz"
    if dataset == "regression_npz":
        np.savez(folder / "set.npz", y=np.eye(5, classes))
        return folder / "set.npz"
    if dataset == "npz":
        np.savez(folder / "set.npz", y_train=np.arange(classes))
        return folder / "set.npz"
    for part in ("train", "test"):
        for label in range(classes):
            (folder / part / str(label)).mkdir(parents=True)
            (folder / part / str(label) / "0.png").write_bytes(b"-")
    return folder


@each_recipe
def test_builds_with_the_installed_timm(info, tmp_path):
    if info.name not in NEEDS_DATA:
        assert check_buildable(runnable(load_recipe(info.name, ["data_root=null"]))) > 0
        return
    with pytest.raises(ValueError, match=r"data_root: .*needs the (file|folder)'s path"):
        check_buildable(load_recipe(info.name))
    place = a_place_with_classes(tmp_path, info.dataset, NEEDS_DATA[info.name])
    assert check_buildable(runnable(load_recipe(info.name, [f"data_root={place}"]))) > 0


@each_recipe
def test_smoke_version_is_a_valid_recipe_that_builds(info, tmp_path):
    small = smoke(load_recipe(info.name))
    path = tmp_path / "smoke.yaml"
    path.write_text(dump_recipe(small))
    assert load_recipe(str(path)) == small
    assert check_buildable(runnable(small)) > 0


def test_head_options_changes_one_thing_at_a_time():
    arms = load_recipe("head_options").arms
    default = {"head": "etf", "loss": "cross_entropy"}
    for name, arm in arms.items():
        changed = {key: value for key, value in vars(arm).items() if value is not None}
        if arm.head == "etf" and arm.loss == "cross_entropy" and name != "etf":
            assert 1 <= len(set(changed.items()) - set(default.items())) <= 2
    assert len(set(map(repr, arms.values()))) == len(arms)
    assert arms["learnable"].neck is None
    assert arms["learnable_bn"].neck == "batchnorm"


@pytest.mark.parametrize(
    ("name", "width", "ratio"),
    [
        ("many_classes", 64, 15),
        ("orientation", 64, 15),
        ("many_classes_photos", 32, 3),
        ("few_classes_photos", 256, 0),
    ],
)
def test_recipes_for_many_classes_have_the_width_they_state(name, width, ratio):
    import timm

    recipe = load_recipe(name)
    assert recipe.model_kwargs["channels"][-1] == width
    model = timm.create_model(recipe.model, num_classes=2, in_chans=recipe.in_chans, **recipe.model_kwargs)
    assert model.num_features == width
    assert NEEDS_DATA[name] / width >= ratio


def test_smoke_runs_train_a_last_stage_and_keep_the_rank_below_the_classes():
    assert smoke(load_recipe("fine_tune")).trainable == ("conv_head", "bn2")
    assert smoke(load_recipe("many_classes")).trainable is None
    assert smoke(load_recipe("many_classes")).arms["union_rank16"].low_rank == 4
