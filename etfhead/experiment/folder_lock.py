"""One run at a time in a folder, however the earlier one ended."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from etfhead.experiment.lock_holder import (
    TEXT_BYTES,
    is_gone,
    read_holder,
    refusal,
    this_process,
    write_holder,
)

__all__ = ["LOCK", "FolderLock", "refuse_locked"]

LOCK = "run.lock"

# Errors of a file system that knows no locks, as some network and FUSE ones.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
# Seconds between attempts: who holds it may only be asking, or have no time yet to write its name.
_WAITS = (0.02, 0.05, 0.1)
# And longer ones while the file names nobody who lives: on a busy machine the name comes late.
_WAITS_FOR_A_NAME = (0.2, 0.5, 1.0)
_SETTLE = 0.3  # without locks: time in which another start at the same instant writes its name over this one

# A POSIX lock never stops its own process, and closing any handle of the file would give it up.
_held: set[Path] = set()


class FolderLock:
    """Context manager that holds a folder for this process, or refuses one that another process holds.

    The lock is the system's record lock (``fcntl.lockf``, ``msvcrt.locking``) on ``run.lock``. It ends with
    the process, also after ``kill -9``, so that a dead run never blocks the next one; and unlike ``flock``
    it does not pass to loading processes that outlive their parent for some seconds. It works between
    machines on NFS. Where the file system has no locks, the file's content decides: the folder is held
    while the process that it names lives, or when it names another machine, until the file is deleted. Of
    two that start at the same instant, the one whose name stands there last goes on.

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
        self._folder: os.stat_result | None = None

    def __enter__(self) -> FolderLock:
        if self.path in _held:
            raise ValueError(refusal(self.path.parent, this_process()))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = _hold(self.path)
            self._folder = os.stat(self.path.parent)
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self.path}: {error.strerror or error}") from error
        _held.add(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is None:
            return
        _held.discard(self.path)
        if sys.platform != "win32" and _is_at(self._handle, self.path):
            # While the lock is held: whoever opened the file meanwhile tries again.
            self.path.unlink(missing_ok=True)
        _release(self._handle)
        self._handle = None
        if sys.platform == "win32":
            _remove_if_free(self.path)

    def check(self) -> None:
        """Make sure that the folder is still there and still this process's; a lost lock is taken again.

        Without it, a run would write into a folder made anew: below the mount point of a disk that went
        away, or into another run's.

        Raises:
            OSError: The folder was removed or replaced.
            ValueError: Another process holds it now.
        """
        if self._handle is None or sys.platform == "win32":  # there an open file cannot be removed
            return
        if _is_at(self._handle, self.path):
            return
        folder = self.path.parent
        try:
            same = self._folder is not None and os.path.samestat(self._folder, os.stat(folder))
        except FileNotFoundError:
            same = False
        if not same:
            raise OSError(
                errno.ENOENT,
                f"{folder} was removed or replaced while a run was at work in it; nothing more is written",
            )
        taken = _hold(self.path)
        os.close(self._handle)
        self._handle = taken


def refuse_locked(folder: Path) -> None:
    """Refuse a folder that a process holds now. Nothing is written.

    Raises:
        ValueError: The folder is held.
    """
    path = folder.resolve() / LOCK
    if path in _held:
        raise ValueError(refusal(folder, this_process()))
    if path.exists():
        _release(_take(path)[0])


def _hold(path: Path) -> int:
    """An open handle that holds the lock and names this process."""
    handle, guarded = _take(path)
    try:
        me = this_process()
        write_holder(handle, me)
        if not guarded:
            time.sleep(_SETTLE)
            if not _is_at(handle, path) or read_holder(handle) != me:
                raise ValueError(refusal(path.parent, read_holder(handle) or {}, delete=path))
    except BaseException:
        os.close(handle)
        raise
    return handle


class _TakenError(Exception):
    """Somebody holds the lock."""

    def __init__(self, holder: dict[str, Any] | None, delete: Path | None = None) -> None:
        self.holder, self.delete = holder or {}, delete


def _take(path: Path) -> tuple[int, bool]:
    """An open handle that holds the lock, and whether the system guards it.

    Raises:
        ValueError: Another process holds it.
        OSError: The file cannot be opened or locked.
    """
    taken = None
    for attempt, wait in enumerate((0.0, *_WAITS, *_WAITS_FOR_A_NAME)):
        if taken is not None and attempt > len(_WAITS) and taken.holder and not is_gone(taken.holder):
            break
        time.sleep(wait)
        try:
            for _ in range(100):
                if (found := _open_and_lock(path)) is not None:
                    return found
        except _TakenError as error:
            taken = error
        else:
            raise OSError(errno.EBUSY, f"{path} is replaced again and again")
    assert taken is not None  # noqa: S101 - every attempt ended with it
    raise ValueError(refusal(path.parent, taken.holder, delete=taken.delete))


def _open_and_lock(path: Path) -> tuple[int, bool] | None:
    """None if the file was deleted between opening and locking."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags, 0o644)
    try:
        guarded = _lock(handle)
        if not guarded and (holder := read_holder(handle)) is not None and not is_gone(holder):
            raise _TakenError(holder, delete=path)
        if sys.platform == "win32" or _is_at(handle, path):  # there an open file cannot be removed
            return handle, guarded
    except OSError as error:
        holder = read_holder(handle)
        os.close(handle)
        if error.errno in _TAKEN:
            raise _TakenError(holder) from None
        raise
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _lock(handle: int) -> bool:
    """Take the system's lock; False where there is none. Raises OSError if it is taken."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, TEXT_BYTES, os.SEEK_SET)
            # It locks bytes, even against reading: the one beyond the holder's name.
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _release(handle: int) -> None:
    """Give the lock up and close the file."""
    if sys.platform == "win32":  # it would free a closed file's lock some time later
        import msvcrt

        os.lseek(handle, TEXT_BYTES, os.SEEK_SET)
        with contextlib.suppress(OSError):
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
    os.close(handle)


def _remove_if_free(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # somebody holds it already
        return
