import re
from dataclasses import replace

import pytest

from etfhead.experiment.schema import copied, list_recipes, load_recipe

RECIPES = list_recipes()


@pytest.mark.parametrize("info", RECIPES, ids=lambda info: info.name)
def test_a_copy_says_nothing_that_was_measured_with_the_original(info, write):
    text = info.path.read_text()
    copy = copied(text, name="mine", origin=info.name)
    assert load_recipe(write(copy)) == replace(
        load_recipe(info.name), name="mine", description=f"copied from {info.name}"
    )
    lines = copy.splitlines()
    assert lines[0] == f"# Copied from {info.name}; the comments below were written for it."
    assert not re.search("Expect:|Takes:", copy)
    assert info.takes not in copy
    # Nothing else is lost: what is left out is the two remarks, each one block of lines.
    gone = [line for line in text.splitlines() if line not in lines]
    remarks = re.findall(r"^# (?:Takes|Expect):.*(?:\n#  .*)*", text, re.MULTILINE)
    assert gone == [
        *"\n".join(remarks).splitlines(),
        f"name: {info.name}",
        f"description: {info.description}",
    ]
    assert [line for line in text.splitlines() if line in lines] == [
        line for line in lines[1:] if not line.startswith(("name: ", "description: "))
    ]


@pytest.mark.parametrize(("before", "after"), [
    ("name: tiny   # short\n", "name: mine   # short\n"),
    ("name: 'tiny'\r\n", "name: mine\r\n"),
    ('"name": tiny\ndescription: "é # 𝄞 text"  # words\n',
     '"name": mine\ndescription: copied from tiny  # words\n'),
    ("name: tiny\ndescription: one\n  line and a second  # words\n",
     "name: mine\ndescription: copied from tiny  # words\n"),
    ("description: >\n  one line\n  and a second\nname: tiny\n",
     "description: copied from tiny\nname: mine\n"),
    ("# about\n# Expect: 𝄞 99 %\n#   and more\n\n# Data: digits\nname: tiny\n# Expect: later\n",
     "# Copied from tiny; the comments below were written for it.\n"
     "# about\n\n# Data: digits\nname: mine\n# Expect: later\n"),
    ("# Takes: long\r\n# Run: so\r\nname: tiny\r\n",
     "# Copied from tiny; the comments below were written for it.\r\n# Run: so\r\nname: mine\r\n"),
])  # fmt: skip
def test_only_these_lines_change_however_they_are_written(minimal, write, before, after):
    rest = minimal.removeprefix("name: tiny\n")
    changed = copied(before + rest, name="mine", origin="tiny")
    assert changed == after + rest
    assert load_recipe(write(changed)).name == "mine"


@pytest.mark.parametrize("name", ["123", "1e3", "null", "true", "no", "0x1F", "2024-01-01", "a.b-c_d"])
def test_any_name_of_a_run_is_read_back_as_text(minimal, write, name):
    assert load_recipe(write(copied(minimal, name=name, origin="tiny"))).name == name


def test_a_recipe_in_braces(write):
    rest = "model: m, dataset: digits, img_size: 8, epochs: 1, arms: {x: {}}, baseline: x"
    text = f"{{name: a, description: b c, {rest}}}"
    recipe = load_recipe(write(copied(text, name="mine", origin="a")))
    assert (recipe.name, recipe.description, recipe.model) == ("mine", "copied from a", "m")


def test_a_name_that_is_kept_and_a_copy_of_a_copy(minimal):
    first = copied("# Expect: much\ndescription: d\n" + minimal, name=None, origin="tiny")
    assert "name: tiny\n" in first
    again = copied(first, name="second", origin="tiny")
    assert again == first.replace("name: tiny", "name: second")
