"""Plain values to a checked `Recipe`, and a recipe back to plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from etfhead.experiment.field_error import FieldError
from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.schema.convert import convert, describe
from etfhead.experiment.schema.yaml_lines import KeyPath
from etfhead.experiment.suggest import did_you_mean

__all__ = ["expand_settings", "expect_mapping", "recipe_from_dict", "recipe_to_dict"]


def expect_mapping(data: Any, where: str) -> dict[str, Any]:
    """Return a copy of the keys and values, or refuse what is not a mapping."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected lines of the form 'key: value', got {describe(data)}")
    return dict(data)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def recipe_from_dict(
    data: Mapping[str, Any], where: str = "recipe", origins: Mapping[KeyPath, str] | None = None
) -> Recipe:
    """Build a recipe from plain values.

    Args:
        data: Flat keys of `Recipe`; ``arms`` maps names to options of `Arm`.
        where: Source of the values, for messages.
        origins: Place of each key's path, for messages that name a line.

    Raises:
        ValueError: If a key is unknown or missing, or a value has the wrong type or range.
    """
    values = expect_mapping(data, where)
    try:
        if isinstance(values.get("arms"), Mapping):
            values["arms"] = {str(name): _arm(str(name), arm) for name, arm in values["arms"].items()}
        elif "arms" in values:
            raise FieldError(
                ("arms",), f"expected a mapping from names to heads, got {describe(values['arms'])}"
            )
        recipe: Recipe = _record(Recipe, values, ())
        for name, changes in recipe.settings.items():
            _setting(values, name, changes)
        return recipe
    except FieldError as error:
        raise ValueError(f"{_place(error.path, where, origins or {})}: {error}") from None


def expand_settings(recipe: Recipe) -> dict[str, Recipe]:
    """The comparison of each setting of a study, named ``<study>.<setting>``.

    >>> from etfhead.experiment.schema import load_recipe
    >>> study = load_recipe("quickstart", ["settings.short.epochs=2", "settings.long.epochs=9"])
    >>> {name: recipe.epochs for name, recipe in expand_settings(study).items()}
    {'short': 2, 'long': 9}
    """
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return {name: _setting(values, name, changes) for name, changes in recipe.settings.items()}


def _setting(values: Mapping[str, Any], name: str, changes: Mapping[str, Any]) -> Recipe:
    own = {"settings": {}, "name": f"{values['name']}.{name}", **changes}
    try:
        recipe: Recipe = _record(Recipe, {**values, **own}, ())
    except FieldError as error:
        # An unchanged key can be at odds with a changed one.
        path = ("settings", name, *(error.path if error.path[:1] and error.path[0] in changes else ()))
        raise FieldError(path, f"{error} (with this setting)" if path[2:] == () else error.message) from None
    return recipe


def _arm(name: str, options: Any) -> Arm:
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise FieldError(("arms", name), f"expected options such as {{head: etf}}, got {describe(options)}")
    return _record(Arm, options, ("arms", name))


def _record(kind: type, values: Mapping[str, Any], path: KeyPath) -> Any:
    hints = _hints(kind)
    converted = {}
    for key, value in values.items():
        if key not in hints:
            place = f" in arm {path[-1]!r}" if path else ""
            raise _UnknownKeyError(
                (*path, str(key)), f"unknown key {key!r}{place}{did_you_mean(str(key), hints)}"
            )
        converted[key] = value if key == "arms" else convert(value, hints[key], (*path, key))
    missing = [field for field in dataclasses.fields(kind) if field.name not in values and _required(field)]
    if missing:
        listed = ", ".join(f"{field.name!r} ({field.metadata['help']})" for field in missing)
        raise FieldError((), f"missing key{'s' if len(missing) > 1 else ''} {listed}")
    try:
        return kind(**converted)
    except FieldError as error:
        raise FieldError((*path, *error.path), error.message) from None


class _UnknownKeyError(FieldError):
    def __str__(self) -> str:
        return self.message


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _place(path: KeyPath, where: str, origins: Mapping[KeyPath, str]) -> str:
    """The line or override of the nearest key that was written down."""
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    return where


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain JSON-able values; `recipe_from_dict` builds it again.

    Options that an arm leaves to its head are left out.
    """
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    values["arms"] = {
        name: {key: value for key, value in dataclasses.asdict(arm).items() if value is not None}
        for name, arm in recipe.arms.items()
    }
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
