"""One way to say "did you mean": for keys, values, arms, recipes and models."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean"]


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest option, or an empty string.

    Args:
        word: What was written.
        options: What could have been meant.

    >>> did_you_mean("epoch", ["epochs", "lr"])
    " (did you mean 'epochs'?)"
    >>> did_you_mean("banana", ["epochs", "lr"])
    ''
    """
    by_lower = {option.lower(): option for option in options}
    close = get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
