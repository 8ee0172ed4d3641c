"""Loading processes: they outlive the signals of a run that stops, and their deaths are told at a batch."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from etfhead.experiment.data.socket_names import keep_socket_names_short

__all__ = ["WorkerLost", "start_method", "start_worker", "told_of_death", "watched", "workers_ended"]

_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\)\s+"
    r"(?:is killed by signal: (?P<signal>[^.]+)\.|(?P<exited>exited unexpectedly[^\n]*))"
)
_PIN_THREAD = "_pin_memory_loop"
_CUT_OFF = (EOFError, OSError)  # what a queue says whose other end is gone
_GRACE = 1.0  # seconds between the end of a connection and that of its process

_END = object()
_iterators: weakref.WeakSet[Any] = weakref.WeakSet()


class WorkerLost(RuntimeError):  # noqa: N818 - it reports an event; whoever knows the run makes it an error
    """A loading process died, for example killed for lack of memory."""


class _Deaths:
    """What torch's SIGCHLD handler has to say of our workers, kept until somebody wants a batch.

    It would raise wherever the main thread is: in a backward pass, while a checkpoint is written, in a fork.
    """

    def __init__(self) -> None:
        self.told: RuntimeError | None = None
        self.starting = False
        self._handlers: list[Any] = []

    def listen(self) -> None:
        """Stand before the handler that torch installs with its first workers."""
        if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
            return
        earlier = signal.getsignal(signal.SIGCHLD)
        if not callable(earlier) or earlier in self._handlers:
            return

        def hear(signum: int, frame: FrameType | None) -> None:
            try:
                earlier(signum, frame)
            except RuntimeError as error:
                if not self._is_ours(error):
                    raise
                self.told = error

        self._handlers.append(hear)
        signal.signal(signal.SIGCHLD, hear)

    def check(self) -> None:
        """Raise what was heard."""
        told, self.told = self.told, None
        if told is not None:
            raise told

    def _is_ours(self, error: RuntimeError) -> bool:
        found = _DIED.search(str(error))
        ours = {worker.pid for iterator in _iterators for worker in iterator._workers}
        return found is not None and (
            self.starting or not ours.isdisjoint(map(int, found["pids"].split(",")))
        )


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


def watched(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Batches of a loader with workers.

    Args:
        start: Begins a pass.

    Raises:
        WorkerLost: One of its processes died.
    """
    keep_socket_names_short()
    with _told_here():
        _deaths.starting = True
        try:
            iterator: Any = start()
        finally:
            _deaths.starting = False
    _iterators.add(iterator)
    for worker in iterator._workers:
        # SIGTERM no longer ends it: the last resort of the loader, and of Python at its exit, must.
        worker._popen.terminate = worker._popen.kill
    _deaths.listen()
    while True:
        with _told_here():
            batch = next(iterator, _END)
        if batch is _END:
            return
        yield batch


@contextmanager
def _told_here() -> Iterator[None]:
    """Where the main thread wants something of the workers, and is told if one has died."""
    try:
        _deaths.check()
        yield
    except (RuntimeError, *_CUT_OFF) as error:
        told = told_of_death(error)
        if (told or isinstance(error, _CUT_OFF)) and (reason := _first_dead() or told):
            raise WorkerLost(reason) from error
        raise


def told_of_death(error: BaseException) -> str | None:
    """What a torch loader's ``RuntimeError`` says of a dead process, or None if it is about something else.

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


def _first_dead() -> str | None:
    deadline = time.monotonic() + _GRACE
    while True:
        for worker in [worker for iterator in _iterators for worker in iterator._workers]:
            if (code := worker.exitcode) is not None and code < 0:
                return _killed(str(worker.pid), -code, signal.strsignal(-code) or "")
            if code:
                return f"a loading process (pid {worker.pid}) exited unexpectedly with exit code {code}"
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
        if (
            args.thread is None
            or _PIN_THREAD not in args.thread.name
            or not issubclass(args.exc_type, _CUT_OFF)
        ):
            threads(args)

    threading.excepthook = quiet
    try:
        yield
    finally:
        for iterator in [other for other in _iterators if other not in before]:
            iterator._shutdown_workers()
            _iterators.discard(iterator)  # whoever holds the loader still: its dead are no longer news
        _deaths.told = None
        threading.excepthook = threads
