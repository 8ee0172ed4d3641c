"""What is wrong with one field of a recipe, and where it stands."""

from __future__ import annotations

__all__ = ["FieldError", "printable"]


def printable(text: str) -> str:
    r"""Text on one line: what cannot be shown as its escape sequence.

    >>> printable("a\nb"), printable("é")
    ('a\\nb', 'é')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class FieldError(ValueError):
    """A value that a field cannot have.

    Args:
        path: Keys from the top of the recipe down to the field.
        message: What was expected and what was found.
    """

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        super().__init__(f"{printable('.'.join(path))}: {message}" if path else message)
        self.path = path
        self.message = message
