"""A plain YAML value to the type that a field declares, or one sentence about why not."""

from __future__ import annotations

import contextlib
import types
from typing import Any, Literal, Union, get_args, get_origin

from etfhead.experiment.field_error import FieldError, printable
from etfhead.experiment.schema.yaml_lines import parse_value
from etfhead.experiment.suggest import did_you_mean

__all__ = ["convert", "describe"]

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NOTHING = ("none", "null", "~")


def describe(value: Any) -> str:
    """Name a value and its kind, short enough for one line.

    >>> describe("ten"), describe(True), describe([1, 2])
    ('the text "ten"', 'true', 'the list [1, 2]')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    kinds = {str: "text", int: "number", float: "number", dict: "mapping"}
    kind = kinds.get(type(value), "list" if isinstance(value, (list, tuple)) else type(value).__name__)
    shown = f'"{printable(value)}"' if isinstance(value, str) else str(value)
    return f"the {kind} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def convert(value: Any, hint: Any, path: tuple[str, ...]) -> Any:
    """Turn a YAML value into the type of a field.

    Number-like text is accepted where a number is expected, ``yes`` and ``off`` where a boolean is, ``none``
    where nothing is allowed, and ``0,1`` where a list is; anything that could mean two things is refused.

    Args:
        value: Text, number, boolean, None, list or dict.
        hint: The field's type: one of those a `Recipe` uses.
        path: Keys down to the field, for the message.

    Raises:
        FieldError: If the value does not have that type.

    >>> convert("1e-3", float, ("lr",)), convert([0, 1], tuple[int, ...], ("seeds",))
    (0.001, (0, 1))
    >>> convert("ten", int, ("epochs",))
    Traceback (most recent call last):
    etfhead.experiment.field_error.FieldError: epochs: expected an integer, got the text "ten"
    """
    origin = get_origin(hint)
    if origin in (types.UnionType, Union):
        return _convert_union(value, get_args(hint), path)
    if origin is Literal:
        return _convert_choice(value, get_args(hint), path)
    if origin is tuple:
        return _convert_list(value, get_args(hint), path)
    if origin is dict:
        if not isinstance(value, dict):
            raise FieldError(path, f"expected a mapping such as {{key: value}}, got {describe(value)}")
        return dict(value)
    return _convert_scalar(value, hint, path)


def _convert_scalar(value: Any, kind: type, path: tuple[str, ...]) -> Any:
    if kind is bool:
        if isinstance(value, str):
            value = _WORDS.get(value.lower(), value)
        if isinstance(value, bool):
            return value
        raise FieldError(path, f"expected true or false, got {describe(value)}")
    if kind is str:
        if isinstance(value, str):
            return value
        quoted = f'; write it in quotes: "{value}"' if isinstance(value, (int, float)) else ""
        raise FieldError(path, f"expected text, got {describe(value)}{quoted}")
    parsed = _number(value)
    if kind is float and parsed is not None:
        try:
            return float(parsed)
        except OverflowError:
            raise FieldError(path, f"expected a number below 1e308, got {describe(value)}") from None
    if kind is int and isinstance(parsed, int):
        return parsed
    raise FieldError(path, f"expected {'an integer' if kind is int else 'a number'}, got {describe(value)}")


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        try:
            value = float(value) if not value.lstrip("+-").isdecimal() else int(value)
        except ValueError:
            return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _convert_choice(value: Any, choices: tuple[Any, ...], path: tuple[str, ...]) -> Any:
    if isinstance(value, str) and value in choices:
        return value
    words = [str(choice) for choice in choices]
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    hint = did_you_mean(value, words) if isinstance(value, str) else ""
    raise FieldError(path, f"expected {listed}, got {describe(value)}{hint}")


def _convert_union(value: Any, hints: tuple[Any, ...], path: tuple[str, ...]) -> Any:
    optional = type(None) in hints
    if value is None and optional:
        return None
    problems = []
    for hint in hints:
        if hint is type(None):
            continue
        # Plain text fits any str, so "none" must be read before it, but never before a choice called "none".
        if optional and hint is str and isinstance(value, str) and value.lower() in _NOTHING:
            return None
        try:
            return convert(value, hint, path)
        except FieldError as error:
            problems.append(error.message)
    if optional and isinstance(value, str) and value.lower() in _NOTHING:
        return None
    expected = [problem.partition(", got ")[0].removeprefix("expected ") for problem in problems]
    if optional:
        expected.append("null")
    rest = problems[0].partition(", got ")[2]
    raise FieldError(path, f"expected {' or '.join(expected)}, got {rest}")


def _convert_list(value: Any, hints: tuple[Any, ...], path: tuple[str, ...]) -> tuple[Any, ...]:
    if isinstance(value, str) and "," in value:
        with contextlib.suppress(ValueError):
            value = parse_value(f"[{value}]", "list")
    open_ended = hints[-1] is Ellipsis
    example = {int: "[0, 1, 2]", str: "[blocks.6, conv_head]"}.get(hints[0], "[0.5, 1.0]")
    if not isinstance(value, (list, tuple)):
        # 3 could mean three seeds or the seed 3.
        alone = _number(value) is not None or (hints[0] is str and isinstance(value, str))
        single = f"; write [{value}] for it alone" if open_ended and alone else ""
        raise FieldError(path, f"expected a list such as {example}, got {describe(value)}{single}")
    if not open_ended and len(value) != len(hints):
        raise FieldError(
            path, f"expected a list of {len(hints)} numbers such as {example}, got {describe(value)}"
        )
    item_hints = (hints[0],) * len(value) if open_ended else hints
    try:
        return tuple(convert(item, hint, path) for item, hint in zip(value, item_hints, strict=True))
    except FieldError as error:
        raise FieldError(path, f"{error.message} in the list {list(value)}") from None
