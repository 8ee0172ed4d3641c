"""Loading processes: they outlive the signals of a run that stops, and their deaths are told at a batch."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["WorkerLost", "start_method", "start_worker", "told_of_death", "watched", "workers_ended"]

_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\)\s+"
    r"(?:is killed by signal: (?P<signal>[^.]+)\.|(?P<exited>exited unexpectedly[^\n]*))"
)
_PIN_THREAD = "_pin_memory_loop"
_CUT_OFF = (EOFError, OSError)  # what a queue says whose other end is gone
_GRACE = 1.0  # seconds between the end of a connection and that of its process

_iterators: weakref.WeakSet[Any] = weakref.WeakSet()


class WorkerLost(RuntimeError):  # noqa: N818 - it reports an event; whoever knows the run makes it an error
    """A loading process died, for example killed for lack of memory."""


class _Deaths:
    """What torch's SIGCHLD handler has to say, kept until somebody waits for a batch.

    It would raise wherever the main thread is: in a backward pass, or while a checkpoint is written.
    """

    def __init__(self) -> None:
        self.told: RuntimeError | None = None
        self.waiting = False
        self._previous: Any = None

    def listen(self) -> None:
        if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if handler != self._hear and callable(handler):
            self._previous = handler
            signal.signal(signal.SIGCHLD, self._hear)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        try:
            self._previous(signum, frame)
        except RuntimeError as error:
            found = _DIED.search(str(error))
            ours = {worker.pid for iterator in _iterators for worker in iterator._workers}
            if self.waiting or found is None or not ours.intersection(map(int, found["pids"].split(","))):
                raise
            self.told = error


_deaths = _Deaths()


def start_worker(_worker: int) -> None:
    """Prepare a loading process: what stops a run reaches its whole process group, but only the main process
    answers. It needs its workers up to the next step, however long its checkpoint takes, and ends them.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def start_method() -> str | None:
    """How loading processes start; None for Python's own way.

    A fork server, the default of Linux from Python 3.14 on, would end with the first SIGTERM to the group.
    """
    import multiprocessing

    usual = multiprocessing.get_start_method(allow_none=True) in (None, "forkserver")
    return "fork" if sys.platform == "linux" and usual else None


def watched(iterator: Any) -> Iterator[Any]:
    """Batches of a loader's iterator with workers.

    Raises:
        WorkerLost: One of its processes died.
    """
    _iterators.add(iterator)
    for worker in iterator._workers:
        # SIGTERM no longer ends it: the last resort of the loader, and of Python at its exit, must.
        worker._popen.terminate = worker._popen.kill
    _deaths.listen()
    while True:
        if (told := _deaths.told) is not None:
            _deaths.told = None
            raise told
        _deaths.waiting = True
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except _CUT_OFF as error:
            if reason := _first_dead(iterator):
                raise WorkerLost(reason) from error
            raise
        finally:
            _deaths.waiting = False
        yield batch


def told_of_death(error: BaseException) -> str | None:
    """What a ``RuntimeError`` of a torch loader says of its dead process, or None if it is about something else.

    >>> told_of_death(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "))
    'a loading process (pid 12) was killed by signal 9 (Killed; often: out of memory)'
    >>> told_of_death(RuntimeError("CUDA error"))
    """
    if isinstance(error, WorkerLost):
        return str(error)
    if not isinstance(error, RuntimeError):
        return None
    if str(error).startswith("Pin memory thread exited"):
        return "a loading process was cut off"
    found = _DIED.match(str(error))
    if found is None:
        return None
    pids = found["pids"]
    if found["signal"] is None:
        return f"a loading process (pid {pids}) {found['exited'].strip(' .')}"
    names = {signal.strsignal(number): number for number in signal.valid_signals()}
    return _killed(pids, names.get(found["signal"]), found["signal"])


def _first_dead(iterator: Any) -> str | None:
    deadline = time.monotonic() + _GRACE
    while True:
        for worker in iterator._workers:
            if (code := worker.exitcode) is not None:
                if code >= 0:
                    return f"a loading process (pid {worker.pid}) exited unexpectedly with exit code {code}"
                return _killed(str(worker.pid), -code, signal.strsignal(-code) or "")
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)


def _killed(pids: str, number: int | None, name: str) -> str:
    often = {"SIGKILL": "out of memory", "SIGBUS": "too little shared memory, /dev/shm"}
    known = signal.Signals(number).name if number in set(signal.Signals) else ""
    why = f"{name}; often: {often[known]}" if known in often else name
    return f"a loading process (pid {pids}) was killed by signal {number or ''} ({why})".replace("  ", " ")


@contextmanager
def workers_ended() -> Iterator[None]:
    """On leaving, end the processes of all loaders that were first used inside, and be silent about it."""
    before = weakref.WeakSet(_iterators)
    threads = threading.excepthook

    def quiet(args: threading.ExceptHookArgs) -> None:
        # The main thread is told, and tells it in a line.
        if args.thread is None or _PIN_THREAD not in args.thread.name or not issubclass(args.exc_type, _CUT_OFF):
            threads(args)

    threading.excepthook = quiet
    try:
        yield
    finally:
        for iterator in [other for other in _iterators if other not in before]:
            iterator._shutdown_workers()
        _deaths.told = None
        threading.excepthook = threads
