"""What values in YAML mean, and which files are recipes."""

import os

import pytest

from etfhead.experiment.recipe import Arm
from etfhead.experiment.schema import find_recipe, load_recipe


def test_a_file_becomes_a_recipe(load):
    recipe = load()
    assert (recipe.epochs, recipe.baseline, recipe.seeds) == (2, "learnable", (0, 1, 2))
    assert recipe.arms == {"learnable": Arm(head="linear"), "etf": Arm(head="etf", basis="haar")}


@pytest.mark.parametrize(
    ("extra", "key", "value"),
    [
        ("lr: 1e-3", "lr", 0.001),
        ("lr: 1E-3", "lr", 0.001),
        ("lr: '5e-4'", "lr", 0.0005),
        ("lr: 1", "lr", 1.0),
        ("lr: .5", "lr", 0.5),
        ("cpu: yes", "cpu", True),
        ("cpu: On", "cpu", True),
        ("no_aug: off", "no_aug", False),
        ("batch_size: 010", "batch_size", 10),  # eight to YAML 1.1
        ("batch_size: 1_000", "batch_size", 1000),
        ("description: no", "description", "no"),  # False to YAML 1.1
        ("description: 2024-01-01", "description", "2024-01-01"),  # a date to YAML 1.1
        ("description: 1:30", "description", "1:30"),  # ninety to YAML 1.1
        ("color_jitter: None", "color_jitter", None),
        ("aa: none", "aa", None),
        ("aa: null", "aa", None),
        ("seeds: 4, 5", "seeds", (4, 5)),
        ("seeds: [4]", "seeds", (4,)),
        ("scale: [1, 1]", "scale", (1.0, 1.0)),
        ("model_kwargs: {a: {b: [1, 2e-1, x]}}", "model_kwargs", {"a": {"b": [1, 0.2, "x"]}}),
    ],
)
def test_values_mean_what_they_look_like(load, extra, key, value):
    got = getattr(load(extra + "\n"), key)
    assert got == value
    assert type(got) is type(value)


def test_the_text_none_is_the_neck_called_none(minimal, load):
    assert load(text=minimal.replace("basis: haar", "neck: none")).arms["etf"].neck == "none"
    assert load(text=minimal.replace("basis: haar", "neck: null")).arms["etf"].neck is None


def test_a_byte_order_mark_is_ignored(minimal, write):
    assert load_recipe(write("\ufeff" + minimal)).name == "tiny"


def test_find_recipe_by_name_path_and_run_folder(minimal, tmp_path, write, monkeypatch):
    shipped = find_recipe("quickstart")
    assert shipped.name == "quickstart.yaml"
    (tmp_path / "recipe.yaml").write_text(minimal)
    assert load_recipe(str(tmp_path)).name == "tiny"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text(minimal)
    assert find_recipe("quickstart") == shipped
    assert find_recipe("./quickstart") != shipped


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quickstrat", ["did you mean 'quickstart'?", "etfhead ls"]),
        ("quickstart.yml", ["did you mean 'quickstart'?"]),
        ("missing/my.yaml", ["no recipe file 'missing/my.yaml'"]),
    ],
)
def test_unknown_recipes(name, words):
    with pytest.raises(ValueError, match="etfhead ls") as caught:
        load_recipe(name)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_an_os_error(minimal, write):
    path = write(minimal)
    os.chmod(path, 0)
    with pytest.raises(PermissionError):
        load_recipe(path)


def test_parts_that_train_are_a_list_of_names(load, refusal):
    assert load("trainable: [blocks.6, conv_head]\n").trainable == ("blocks.6", "conv_head")
    assert load("", "trainable=conv_head,bn2").trainable == ("conv_head", "bn2")
    assert load("trainable: []\n").trainable == ()
    assert load("trainable: none\n").trainable is None
    assert "expected a list such as [blocks.6, conv_head]" in refusal("trainable: bn2\n")
    assert "write [bn2] for it alone" in refusal("trainable: bn2\n")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("no", False), ("0.5", 0.5), ("none", None)])
def test_centring_is_yes_no_or_a_share(load, text, value):
    arm = load("", "arms.etf.head=class_mean", "~arms.etf.basis", f"arms.etf.centre={text}").arms["etf"]
    assert arm.centre == value
    assert type(arm.centre) is type(value)


def test_centring_by_a_word_is_refused(refusal):
    line = refusal("", "arms.etf.head=class_mean", "~arms.etf.basis", "arms.etf.centre=strong")
    assert "expected true or false or a number or null" in line
