"""One run at a time in a folder, however the earlier one ended."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["LOCK", "FolderLock", "refuse_locked"]

LOCK = "run.lock"

# Errors of a file system that knows no locks, as some network and FUSE ones.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_TEXT_BYTES = 1000  # Windows locks bytes, even against reading: the one beyond the holder's name

# A POSIX lock never stops its own process, and closing any handle of the file would give it up.
_held: set[Path] = set()


class FolderLock:
    """Context manager that holds a folder for this process, or refuses one that another process holds.

    The lock is the system's record lock (``fcntl.lockf``, ``msvcrt.locking``) on ``run.lock``. It ends with
    the process, also after ``kill -9``, so that a dead run never blocks the next one; and unlike ``flock``
    it does not pass to loading processes that outlive their parent for some seconds. It works between
    machines on NFS. Where the file system has no locks, the file's content decides: the folder is held
    while the process that it names lives, or when it names another machine, until the file is deleted.

    Args:
        folder: It is created if missing.

    Raises:
        ValueError: On entry, if the folder is held; the message names process, machine and time.
        OSError: On entry, if the folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, FolderLock(Path(folder)):
    ...     refuse_locked(Path(folder))
    Traceback (most recent call last):
    ...
    ValueError: out: ... is in use by process ... on ...; wait for it or stop it, or choose another --out
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.resolve() / LOCK
        self._handle: int | None = None

    def __enter__(self) -> FolderLock:
        if self.path in _held:
            raise ValueError(_refusal(self.path.parent, _this_process()))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self._handle is None:
                self._handle = _take(self.path)
            _write_holder(self._handle)
        except OSError as error:
            if self._handle is not None:
                os.close(self._handle)
            raise OSError(error.errno, f"cannot write {self.path}: {error.strerror or error}") from error
        _held.add(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is None:
            return
        _held.discard(self.path)
        if sys.platform != "win32":  # while the lock is held: whoever opened the file meanwhile tries again
            self.path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = None
        if sys.platform == "win32":
            _remove_if_free(self.path)


def refuse_locked(folder: Path) -> None:
    """Refuse a folder that a process holds now. Nothing is written.

    Raises:
        ValueError: The folder is held.
    """
    path = folder.resolve() / LOCK
    if path in _held:
        raise ValueError(_refusal(folder, _this_process()))
    if path.exists() and (handle := _take(path)) is not None:
        os.close(handle)


def _take(path: Path) -> int | None:
    """An open handle that holds the lock; None if the file was deleted meanwhile."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags, 0o644)
    try:
        if not _lock(handle):
            holder = _read_holder(handle)
            if holder is not None and _is_gone(holder):
                holder = None
            elif holder is not None:
                raise ValueError(_refusal(path.parent, holder, delete=path))
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in _TAKEN:
            os.close(handle)
            raise
        holder = _read_holder(handle) or {}
        os.close(handle)
        raise ValueError(_refusal(path.parent, holder)) from None
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _lock(handle: int) -> bool:
    """Take the system's lock; False where there is none. Raises OSError if it is taken."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, _TEXT_BYTES, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _this_process() -> dict[str, Any]:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _write_holder(handle: int) -> None:
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, (json.dumps(_this_process()) + "\n").encode())


def _read_holder(handle: int) -> dict[str, Any] | None:
    """Who wrote the file; None if nobody did, or what stands there makes no sense."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        found = json.loads(os.read(handle, _TEXT_BYTES))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_gone(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    if pid == os.getpid():
        return True  # it would be in _held: the number was another process's before
    if sys.platform == "win32":
        return False  # os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _refusal(folder: Path, holder: dict[str, Any], delete: Path | None = None) -> str:
    who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}"
    since = f" since {holder['since']}" if "since" in holder else ""
    advice = "wait for it or stop it, or choose another --out"
    if delete is not None:
        advice += f"; if that process no longer exists, delete {delete}"
    return f"out: {folder} is in use by {who}{since}; {advice}"


def _remove_if_free(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # somebody holds it already
        return
