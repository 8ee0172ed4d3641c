"""Which view belongs to a marker: the name of a result, NAME@VIEW, or columns of a table written by hand."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.views import comparison, cost, geometry, production, study

__all__ = ["written"]

_WRITERS: dict[str, Callable[[str], str]] = {**comparison.WRITERS, **cost.WRITERS, **production.WRITERS}
_VIEWS: dict[str, Callable[[str], str]] = {
    **comparison.VIEWS,
    **cost.VIEWS,
    **study.VIEWS,
    **geometry.VIEWS,
}
_COLUMNS: dict[str, Callable[[str, str], str]] = cost.COLUMNS


def written(marker: str, present: str = "") -> str:
    """The table of a marker; ``present`` is what stands there now."""
    name, _, view = marker.partition("@")
    if view in _COLUMNS:
        return _COLUMNS[view](name, present)
    return _VIEWS[view](name) if view else _WRITERS[name](name)
