"""Loading processes hand on their batches over sockets, whose names the system keeps short."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

__all__ = ["keep_socket_names_short"]

_LONGEST = 107 if sys.platform == "linux" else 103  # bytes that the system takes for the name of a socket
_BELOW = len("/pymp-12345678/listener-12345678")  # what multiprocessing puts under the temporary folder
_SHORT = ("/tmp", "/var/tmp")  # noqa: S108 - multiprocessing makes a folder of its own there, for this user alone


def keep_socket_names_short() -> None:
    """Give multiprocessing a short temporary folder where ``TMPDIR`` is too long for sockets.

    Without it, a loading process cannot send its first batch, and the run waits for it forever. Pythons
    before 3.14 have no way out of their own. A folder that it has already stays as it is.

    Raises:
        ValueError: Neither ``TMPDIR`` nor the system's own temporary folders will do.

    >>> keep_socket_names_short()
    """
    if sys.platform == "win32" or _fits(tempfile.gettempdir()):
        return
    from multiprocessing import util

    earlier = tempfile.tempdir
    for place in _SHORT:
        if _fits(place) and Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK):
            tempfile.tempdir = place
            try:
                util.get_temp_dir()  # it is kept, here and in the loading processes
            finally:
                tempfile.tempdir = earlier
            return
    raise ValueError(
        f"TMPDIR: expected a path of at most {_LONGEST - _BELOW} bytes, or loading processes cannot hand on "
        f"what they load; got {tempfile.gettempdir()}; set a shorter one, or use no loading processes"
    )


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) + _BELOW <= _LONGEST
