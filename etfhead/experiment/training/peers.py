"""What a process says when another one of the same run has gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["lost_peers_told"]

_BACKEND = re.compile(r"gloo|nccl|xccl|hccl|\bmpi", re.IGNORECASE)
# Backends also complain of types and operations that they lack.
_LOST = re.compile(
    r"connect|closed|reset by|timed out|timeout|broken pipe|peer|refused|unreachable", re.IGNORECASE
)


@contextmanager
def lost_peers_told(processes: int) -> Iterator[None]:
    """Turn the error of a broken connection between processes into one that says what to do.

    Args:
        processes: Of the run; one process has no peers.

    Raises:
        ConnectionError: Another process ended or cannot be reached.

    >>> with lost_peers_told(2):
    ...     raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer")
    Traceback (most recent call last):
    ...
    ConnectionError: another of the 2 processes ended or cannot be reached (...); look for its message...
    """
    try:
        yield
    except RuntimeError as error:
        if processes == 1 or not _is_of_the_network(error):
            raise
        reason = str(error).splitlines()[0].partition("] ")[2] or str(error).splitlines()[0]
        raise ConnectionError(
            f"another of the {processes} processes ended or cannot be reached ({reason[:120]}); look for its "
            "message, then start all of them again with --resume"
        ) from error


def _is_of_the_network(error: RuntimeError) -> bool:
    known = getattr(torch.distributed, "DistError", None)
    if known is not None and isinstance(error, known):
        return True
    return all(pattern.search(str(error)) for pattern in (_BACKEND, _LOST))
