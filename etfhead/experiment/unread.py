"""Why a file of tensors could not be read, in one line for a message."""

from __future__ import annotations

__all__ = ["why_unread"]


def why_unread(error: Exception) -> str:
    r"""First line of what ``torch.load`` says, without its advice to open a pickle all the same.

    >>> why_unread(EOFError("Ran out of input\nat byte 3")), why_unread(EOFError())
    ('Ran out of input', 'EOFError')
    >>> why_unread(ValueError("Re-running with `weights_only` set to `False` will likely succeed"))
    'it holds a pickle of more than tensors, which is not opened'
    """
    text = str(error).strip()
    if "weights_only" in text:
        return "it holds a pickle of more than tensors, which is not opened"
    return text.splitlines()[0][:200] if text else type(error).__name__
