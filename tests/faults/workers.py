"""Loading processes: a signal to the whole process group, as schedulers send it, and workers that die."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.faults.kills import Outcome
from tests.faults.runs import call, compare, finished_files, start, wait

__all__ = ["MOMENTS", "WITH_WORKERS", "kill_one_worker", "signal_the_group"]

_PATIENCE = 300.0
_LEFT = 120.0  # seconds in which workers notice that the main process has gone; torch looks every 5

# Where a run is when it happens: what is called there, and the how many-th call.
MOMENTS = {
    "workers start": ("etfhead.experiment.data.loader:watched", 1),
    "first validation": ("etfhead.experiment.training.measure:SplitMeasure.__call__", 1),
    "first step": ("etfhead.experiment.training.engine:forward", 1),
    "step 13": ("etfhead.experiment.training.engine:forward", 13),
    "validation": ("etfhead.experiment.training.measure:SplitMeasure.__call__", 2),
    "a checkpoint": ("etfhead.experiment.training.checkpoint:StateFile.save", 2),
    "the test images": ("etfhead.experiment.training.arm_run:conclude", 1),
    "between arms": ("etfhead.experiment.training.session:Session.build", 2),
}
WITH_WORKERS = tuple(
    name for name in MOMENTS if name not in ("workers start", "first validation", "between arms")
)
_WORDS = ("workers=2",)


def signal_the_group(
    recipe: Path, whole: Path, moments: list[str], signals: tuple[int, ...], *, report: bool = True
) -> Iterator[Outcome]:
    """Stop a run and its loading processes with one signal to all: as without workers, and nobody is left.

    Args:
        recipe: Its file.
        whole: Folder of the uninterrupted run.
        moments: Of :data:`MOMENTS`.
        signals: Taken in turn.
        report: Write the report too.
    """
    for number, moment in enumerate(moments):
        signum = signals[number % len(signals)]

        def send(by: int = signum) -> None:
            os.killpg(0, by)

        what = f"{signal.Signals(signum).name} to the group at {moment}"
        yield what, _disturb(recipe, whole, moment, send, 128 + signum, report)


def kill_one_worker(
    recipe: Path, whole: Path, moments: list[str], *, signum: int = signal.SIGKILL, report: bool = True
) -> Iterator[Outcome]:
    """Kill a loading process: one line that says so, and what is left goes on.

    Args:
        recipe: Its file.
        whole: Folder of the uninterrupted run.
        moments: Of :data:`WITH_WORKERS`.
        signum: Its end.
        report: Write the report too.
    """

    def kill() -> None:
        import multiprocessing

        newest = max(multiprocessing.active_children(), key=lambda worker: worker._identity)
        assert newest.pid is not None
        os.kill(newest.pid, signum)

    for moment in moments:
        name = signal.Signals(signum).name
        yield f"{name} to a worker at {moment}", _disturb(recipe, whole, moment, kill, 2, report)


def _disturb(recipe: Path, whole: Path, moment: str, act: Callable[[], None], code: int, report: bool) -> str:
    out = whole.with_name("disturbed")
    shutil.rmtree(out, ignore_errors=True)

    def before() -> None:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        _at(*MOMENTS[moment], act)

    running = start(
        call(["run", recipe, *_WORDS, "--out", out], before=before, report=report), out.with_suffix(".log")
    )
    ended = wait(running, _PATIENCE)
    left = _left_of(running.pid)
    if ended.code != code or "Traceback" in ended.told or "Exception" in ended.told:
        return f"exit code {ended.code}: {ended.told[-600:]}"
    if code == 2:
        lines = [line for line in ended.told.splitlines() if "etfhead: error: " in line]
        if len(lines) != 1 or "loading process (pid " not in lines[0] or "--resume" not in lines[0]:
            return f"it said {ended.told[-600:]}"
    if left:
        return f"processes {left} are left"
    done = finished_files(out)
    again = wait(start(call(["run", recipe, *_WORDS, "--out", out, "--resume"], report=report), running.log))
    if again.code != 0:
        return f"resume failed with exit code {again.code}: {again.told[-300:]}"
    if lost := [str(path) for path, data in done.items() if path.read_bytes() != data]:
        return f"finished files changed: {lost}"
    return ", ".join(compare(whole, out))


def _at(place: str, count: int, act: Callable[[], None]) -> None:
    """Act before the ``count``-th call of what a module's name and a path in it say."""
    import importlib

    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    work, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            act()
        return work(*args, **options)

    setattr(owner, name, wrapped)


def _left_of(group: int) -> list[int]:
    """Processes of a group that are still at work after a while."""
    deadline = time.monotonic() + _LEFT
    while (left := _members(group)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _members(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
