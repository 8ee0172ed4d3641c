"""YAML text to plain values, each with the line it stands on; nothing in the text can be executed."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["KeyPath", "parse_value", "parse_yaml"]

KeyPath = tuple[str, ...]

_TAG = "tag:yaml.org,2002:"
_MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads scalars as YAML 1.2 does.

    PyYAML follows YAML 1.1, where ``1e-3`` is text, ``no`` and ``off`` are booleans, ``010`` is eight and
    ``1:30`` is ninety.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's name


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)

_SCALARS = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text.replace("_", "")),
    "float": lambda text: float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan")),
    "str": lambda text: text,
}


def parse_yaml(text: str, where: str) -> tuple[Any, dict[KeyPath, str]]:
    r"""Parse one YAML document into dicts, lists, text, numbers, booleans and None.

    Args:
        text: The document.
        where: Name of its source, for messages.

    Returns:
        The value, and for every key's path the place it comes from (``recipe.yaml, line 3``).

    Raises:
        ValueError: If the text is not YAML, repeats a key, or uses tags, anchors or aliases.

    >>> parse_yaml("lr: 1e-3\naa: no", "x.yaml")
    ({'lr': 0.001, 'aa': 'no'}, {('lr',): 'x.yaml, line 1', ('aa',): 'x.yaml, line 2'})
    """
    try:
        _refuse_unbounded(text, where)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ValueError(f"{where}, line {mark.line + 1 if mark else 1}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    origins: dict[KeyPath, str] = {}
    return (None if node is None else _build(node, where, (), origins)), origins


def parse_value(text: str, where: str) -> Any:
    """Parse the value of an override, such as ``3``, ``[0, 1]`` or ``{head: etf}``.

    Raises:
        ValueError: As for `parse_yaml`.
    """
    return parse_yaml(text, where)[0]


def _refuse_unbounded(text: str, where: str) -> None:
    # Aliases would let a few lines stand for billions of values, and hide what a run used.
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(
                f"{where}, line {line}: anchors and aliases (&, *) are not used in recipes; "
                "write the value out, or quote the text"
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"{where}, line {line}: nested too deeply for a recipe")


def _build(node: yaml.Node, where: str, path: KeyPath, origins: dict[KeyPath, str]) -> Any:
    place = f"{where}, line {node.start_mark.line + 1}"
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _build_mapping(node, where, path, origins)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_build(item, where, (*path, str(index)), origins) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
        try:
            return _SCALARS[kind](node.value)
        except ValueError:
            raise ValueError(f"{place}: {node.value!r} is not a valid {kind}") from None
    raise ValueError(
        f"{place}: the tag {node.tag!r} is refused: recipes hold text, numbers, lists and mappings only"
    )


def _build_mapping(
    node: yaml.MappingNode, where: str, path: KeyPath, origins: dict[KeyPath, str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = f"{where}, line {key_node.start_mark.line + 1}"
        _build(key_node, where, path, {})  # refuses tags on keys too
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"{place}: a key is one word, got a list or mapping")
        key = str(key_node.value)
        if key in values:
            raise ValueError(f"{place}: the key {key!r} is repeated (first on {origins[(*path, key)]})")
        origins[(*path, key)] = place
        values[key] = _build(value_node, where, (*path, key), origins)
    return values
