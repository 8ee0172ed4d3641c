"""Any mapping becomes a recipe or one line about why not; a recipe survives its YAML."""

import dataclasses
import types
from typing import Literal, Union, get_args, get_origin, get_type_hints

import yaml
from hypothesis import strategies as st

from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.schema import dump_recipe, expand_settings, recipe_from_dict, smoke
from etfhead.experiment.schema.yaml_lines import parse_yaml
from tests.fuzz.exploring import attempt, explore, one_line, sizes

BASE = {
    "name": "fuzz",
    "model": "test_resnet",
    "img_size": 16,
    "dataset": "digits",
    "epochs": 3,
    "arms": {"linear": {"head": "linear"}, "etf": {"head": "etf"}},
    "baseline": "linear",
}
WORDS = st.sampled_from(
    [
        "",
        "none",
        "null",
        "~",
        "yes",
        "off",
        "1e-3",
        "0x1F",
        "1_000",
        ".nan",
        "-",
        "a: b",
        "#",
        "\x00",
        "\u2028",
        "é",
    ]
)
TEXT = st.one_of(st.text(max_size=8), WORDS)
NUMBERS = st.one_of(
    st.integers(-3, 300), st.integers(), st.sampled_from([2**32, 2**63, 10**400, -(10**400)]), st.floats()
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT)
ANYTHING = st.recursive(
    SCALARS,
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(TEXT, below, max_size=3)),
    max_leaves=5,
)
FINITE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(TEXT, below, max_size=3)),
    max_leaves=4,
)


def fitting(hint):
    """Values of a field's type, mostly in its usual range."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return st.one_of(*map(fitting, arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(fitting(arguments[0]), max_size=4)
        return st.tuples(*map(fitting, arguments)).map(list)
    if origin is dict:
        return st.dictionaries(TEXT, FINITE, max_size=2)
    kinds = {
        int: st.integers(0, 300),
        float: st.one_of(st.floats(0, 1), st.floats(0, 100)),
        bool: st.booleans(),
        str: TEXT,
        types.NoneType: st.none(),
    }
    return kinds[hint]


def options(kind, without=()):
    hints = {key: hint for key, hint in get_type_hints(kind).items() if key not in without}
    keys = st.one_of(st.sampled_from(sorted(hints)), TEXT)
    entry = keys.flatmap(
        lambda key: st.tuples(
            st.just(key), st.one_of(fitting(hints[key]), ANYTHING) if key in hints else ANYTHING
        )
    )
    return st.lists(entry, max_size=4).map(dict)


ARMS = st.dictionaries(
    st.one_of(st.sampled_from(["linear", "etf", "a-b", "Etf"]), TEXT),
    st.one_of(options(Arm), ANYTHING),
    max_size=3,
)
CHANGED = st.tuples(options(Recipe, without=("arms", "settings")), st.one_of(st.none(), ARMS, ANYTHING))
SETTINGS = st.dictionaries(
    TEXT, st.one_of(options(Recipe, without=("arms", "settings")), ANYTHING), max_size=2
)
MAPPINGS = st.one_of(
    CHANGED.map(lambda found: {**BASE, **found[0], **({} if found[1] is None else {"arms": found[1]})}),
    st.tuples(options(Recipe, without=("arms", "settings")), SETTINGS).map(
        lambda found: {**BASE, **found[0], "settings": found[1]}
    ),
    options(Recipe),
    ANYTHING,
)


def check_mapping(data):
    recipe, error = attempt(lambda: recipe_from_dict(data), ValueError)
    if error is not None:
        assert one_line(error), repr(str(error))
        return
    text = dump_recipe(recipe)
    again = recipe_from_dict(parse_yaml(text, "dumped")[0])
    assert dump_recipe(again) == text
    assert dump_recipe(recipe_from_dict(yaml.safe_load(text))) == text
    if not _has_nan(dataclasses.asdict(recipe)):
        assert again == recipe
    for each in (recipe, *expand_settings(recipe).values()):
        _, error = attempt(lambda each=each: smoke(each), ValueError)
        assert error is None or one_line(error), repr(str(error))


def _has_nan(value):
    if isinstance(value, dict):
        return any(_has_nan(each) for each in value.values())
    if isinstance(value, list | tuple):
        return any(_has_nan(each) for each in value)
    return isinstance(value, float) and value != value


@sizes(100, 3000)
def test_a_mapping_is_a_recipe_or_refused_in_a_line(size):
    explore(size, MAPPINGS, check_mapping)


TOKENS = st.sampled_from(
    ["name", "arms", "lr", ": ", ":", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "&a", "*a", "!!int", "!x",
     "|", ">", "'", '"', "1e9", "-0", "1:30", "010", "~", "%", "@", "`", "#", "? ", "---\n", "...", "\t",
     "<<", "\ufeff"]
)  # fmt: skip


def check_text(text):
    parsed, error = attempt(lambda: parse_yaml(text, "fuzz.yaml"), ValueError)
    if error is not None:
        assert one_line(error), repr(str(error))
        assert "fuzz.yaml" in str(error)
        return
    value, origins = parsed
    assert all(isinstance(part, str) for path in origins for part in path)
    _, error = attempt(lambda: recipe_from_dict(value), ValueError)
    assert error is None or one_line(error), repr(str(error))


@sizes(80, 1000)
def test_any_text_is_read_or_refused_in_a_line(size):
    tokens = st.lists(st.one_of(TOKENS, st.text(max_size=3)), max_size=25).map("".join)
    explore(size, tokens, check_text)
