"""``key=value`` and ``~key`` from the command line, applied to a recipe's plain values."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from etfhead.experiment.schema.yaml_lines import KeyPath, parse_value
from etfhead.experiment.suggest import did_you_mean

__all__ = ["apply_overrides"]


def apply_overrides(
    data: dict[str, Any], origins: dict[KeyPath, str], overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Return the values and their origins after the overrides, in order.

    Args:
        data: Values of the recipe file.
        origins: Where each key's value comes from; overridden keys name their override instead.
        overrides: ``key=value`` with dots for nested keys, the value in YAML, or ``~key`` to leave a key
            out (an arm disappears, any other key returns to its default).

    Raises:
        ValueError: If an override has another form, or its path leads through something that is not there.

    >>> apply_overrides({"arms": {"a": {}, "b": {}}}, {}, ["arms.a.head=etf", "~arms.b", "lr=1e-3"])[0]
    {'arms': {'a': {'head': 'etf'}}, 'lr': 0.001}
    """
    data, origins = copy.deepcopy(data), dict(origins)
    for override in overrides:
        where = f"override {override!r}"
        if override.startswith("~"):
            _delete(data, _split(override[1:], where), where)
            continue
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"{where}: expected key=value (as in epochs=3) or ~key")
        path = _split(key, where)
        _parent(data, path, where, create=True)[path[-1]] = parse_value(text, where)
        origins = {known: place for known, place in origins.items() if known[: len(path)] != path}
        origins |= {path[:depth]: where for depth in range(1, len(path)) if path[:depth] not in origins}
        origins[path] = where
    return data, origins


def _split(key: str, where: str) -> KeyPath:
    path = tuple(part.strip() for part in key.split("."))
    if not all(path):
        raise ValueError(f"{where}: expected key=value (as in epochs=3, arms.etf.basis=haar) or ~key")
    return path


def _parent(data: dict[str, Any], path: KeyPath, where: str, *, create: bool) -> dict[str, Any]:
    node = data
    for depth, key in enumerate(path[:-1]):
        shown = ".".join(path[: depth + 1])
        if node.get(key) is None and create and (path[0] != "arms" or key in node or depth == 0):
            node[key] = {}
        if key not in node:
            what = f"no arm {key!r}" if path[0] == "arms" and depth == 1 else f"no {shown!r}"
            raise ValueError(f"{where}: the recipe has {what}{did_you_mean(key, node)}")
        if not isinstance(node[key], dict):
            raise ValueError(f"{where}: {shown!r} holds a single value, nothing lies below it")
        node = node[key]
    return node


def _delete(data: dict[str, Any], path: KeyPath, where: str) -> None:
    node = _parent(data, path, where, create=False)
    if path[-1] not in node:
        raise ValueError(
            f"{where}: the recipe has no {'.'.join(path)!r} to leave out{did_you_mean(path[-1], node)}"
        )
    del node[path[-1]]
