"""A recipe as YAML that shows every knob with its comment."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from etfhead.experiment.recipe import Arm, Recipe

__all__ = ["dump_recipe", "inline"]

_COMMENT_COLUMN = 34


class _Dumper(yaml.SafeDumper):
    """SafeDumper whose text stays text in YAML 1.1 and 1.2 alike, on one line."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # Plain 1e-3 is text to PyYAML and a number to YAML 1.2: quote whatever could be a number.
        plain = not text[:1].isdigit() and text.isprintable() and not text.startswith(("+", "-", "."))
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')

    def ignore_aliases(self, data: Any) -> bool:
        # The same list at two places is written out twice: recipes are read without anchors.
        return True


_Dumper.add_representer(str, _Dumper.represent_text)


def inline(value: Any) -> str:
    """A value as YAML on one line, which reads the same in YAML 1.1 and 1.2."""
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        width=float("inf"),
        allow_unicode=True,
        sort_keys=False,
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _line(key: str, value: Any, comment: str) -> str:
    return f"{f'{inline(key)}: {inline(value)}':<{_COMMENT_COLUMN}}  # {comment}"


def _arms(recipe: Recipe) -> list[str]:
    lines = ["# The options of an arm; one left out takes the default of its head:"]
    for field in dataclasses.fields(Arm):
        owner = f" ({field.metadata['group']})" if field.metadata["group"] else ""
        lines.append(f"#   {field.name}{owner}: {field.metadata['help']}")
    lines.append("arms:")
    for name, arm in recipe.arms.items():
        options = {key: value for key, value in dataclasses.asdict(arm).items() if value is not None}
        lines.append(f"  {inline(name)}: {inline(options)}")
    return lines


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML: all keys in order, each with its comment.

    The text loads back to an equal recipe, here and with ``yaml.safe_load``.

    Args:
        recipe: The resolved recipe.
    """
    lines: list[str] = []
    for field in dataclasses.fields(recipe):
        if field.metadata["group"]:
            lines += ["", f"# {field.metadata['group']}"]
        if field.name == "arms":
            lines += _arms(recipe)
            continue
        value = getattr(recipe, field.name)
        lines.append(
            _line(field.name, list(value) if isinstance(value, tuple) else value, field.metadata["help"])
        )
    return "\n".join(lines) + "\n"
