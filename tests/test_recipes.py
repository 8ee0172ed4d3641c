"""Every shipped recipe: loads, says how to run it, builds with the installed timm, and shrinks."""

import re
import shlex

import pytest
import yaml

from etfhead.experiment.preflight import check_buildable
from etfhead.experiment.schema import dump_recipe, list_recipes, load_recipe, recipe_from_dict, smoke

RECIPES = list_recipes()
each_recipe = pytest.mark.parametrize("info", RECIPES, ids=lambda info: info.name)


def test_the_promised_recipes_are_there():
    names = {info.name for info in RECIPES}
    assert {"quickstart", "fashion_mnist", "head_options", "cifar10_gpu", "cifar100_gpu"} <= names


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
    assert commands[0] == ["etfhead", "run", info.name]
    for _, verb, name, *rest in commands:
        assert name == info.name
        if verb in ("run", "show"):
            load_recipe(name, rest)
    assert info.takes
    for word in ("Run:", "Takes:", "Data:", "Expect:"):
        assert f"# {word}" in header


@each_recipe
def test_builds_with_the_installed_timm(info):
    assert check_buildable(load_recipe(info.name, ["data_root=null"])) > 0


@each_recipe
def test_smoke_version_is_a_valid_recipe_that_builds(info, tmp_path):
    small = smoke(load_recipe(info.name))
    path = tmp_path / "smoke.yaml"
    path.write_text(dump_recipe(small))
    assert load_recipe(str(path)) == small
    assert check_buildable(small) > 0


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
