"""Folders that vanish, change hands or stop being writable while a run is at work in them."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.kills import Outcome, at_step
from tests.faults.runs import CannotStart, Ended, call, compare, finished_files, in_process, start, wait

if TYPE_CHECKING:
    from etfhead.experiment.training.engine import Trainer

__all__ = ["changed_folders", "read_only", "started_together", "two_runs"]


def changed_folders(recipe: Path, whole: Path, *, report: bool = True) -> Iterator[Outcome]:
    """The folder is removed, replaced by another run's, or loses its lock inside the second arm."""
    out, aside = whole.with_name("changed"), whole.with_name("aside")

    def run(happens: Callable[[], object]) -> Ended:
        for folder in (out, aside):
            shutil.rmtree(folder, ignore_errors=True)
        command = call(["run", recipe, "--out", out], before=lambda: in_mid_run(happens), report=report)
        return in_process(command, out.with_suffix(".log"))

    def replace() -> None:
        os.rename(out, aside)
        shutil.copytree(whole, out)

    told = f"{out} was removed or replaced while a run was at work"
    ended = run(lambda: shutil.rmtree(out))
    good = ended.refused and told in ended.told and not out.exists()
    yield "removed", "" if good else f"exit code {ended.code}: {ended.told[-300:]}"

    ended = run(replace)
    good = ended.refused and told in ended.told and _contents(out) == _contents(whole)
    yield "replaced by another run's", "" if good else f"exit code {ended.code}: {ended.told[-300:]}"
    os.rename(out, whole.with_name("stranger"))
    os.rename(aside, out)
    yield "moved back, --resume", _goes_on(recipe, whole, out, report)
    shutil.rmtree(whole.with_name("stranger"))

    ended = run((out / "run.lock").unlink)
    good = ended.code == 0 and not compare(whole, out)
    yield "run.lock deleted", "" if good else f"exit code {ended.code}: {ended.told[-300:]}"


def in_mid_run(happens: Callable[[], object]) -> None:
    """In this process: let something happen at the third step of the second arm's second epoch."""

    def step(trainer: Trainer) -> None:
        if trainer.arm == "etf" and trainer.position.epoch == 1 and trainer.position.step == 3:
            happens()

    _after_each_step(step)


def _after_each_step(happens: Callable[[Trainer], object]) -> None:
    from etfhead.experiment.training.engine import Trainer

    plain = Trainer._advance

    def advance(trainer: Trainer, images: int) -> None:
        plain(trainer, images)
        happens(trainer)

    Trainer._advance = advance  # type: ignore[method-assign]


def read_only(recipe: Path, whole: Path, steps: list[int]) -> Iterator[Outcome]:
    """Nothing can be written from some file operation on, as when a disk is mounted again read-only.

    Args:
        recipe: Its file.
        whole: Folder of the uninterrupted run.
        steps: Where it begins.
    """
    out = whole.with_name("readonly")
    for step in steps:
        shutil.rmtree(out, ignore_errors=True)
        command = call(
            ["run", recipe, "--out", out], before=lambda at=step: at_step(at, _refuse, onwards=True)
        )
        ended = in_process(command, out.with_suffix(".log"))
        if not ended.refused or "Read-only file system" not in ended.told:
            yield f"read-only from file step {step}", f"exit code {ended.code}: {ended.told[-300:]}"
            continue
        yield f"read-only from file step {step}", _goes_on(recipe, whole, out)
    for words in (["report", whole], ["run", recipe, "--out", whole, "--resume"]):
        before = _contents(whole)
        command = call(words, before=lambda: at_step(1, _refuse, onwards=True))
        ended = in_process(command, out.with_suffix(".log"))
        good = ended.refused and "Read-only file system" in ended.told and _contents(whole) == before
        yield f"{words[0]} in a read-only folder", "" if good else f"{ended.code}: {ended.told[-300:]}"
        (whole / "run.lock").unlink(missing_ok=True)


def _refuse() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.lock"
    }


def _goes_on(recipe: Path, whole: Path, out: Path, report: bool = True) -> str:
    done = finished_files(out)
    ended = in_process(
        call(["run", recipe, "--out", out, "--resume"], report=report), out.with_suffix(".log")
    )
    if ended.code != 0:
        return f"resume failed with exit code {ended.code}: {ended.told[-300:]}"
    if lost := [str(path) for path, data in done.items() if not path.exists() or path.read_bytes() != data]:
        return f"finished files changed: {lost}"
    return f"other numbers: {wrong}" if (wrong := compare(whole, out)) else ""


def started_together(
    recipe: Path, whole: Path, interrupted: Path, rounds: int, *, report: bool = True
) -> Iterator[Outcome]:
    """Two ``--resume`` of one interrupted run at the same instant: one of them goes on.

    Args:
        recipe: Its file.
        whole: Folder of the uninterrupted run.
        interrupted: Folder of a run that was stopped.
        rounds: How often.
        report: Write the report too.
    """
    out = whole.with_name("together")
    for number in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(interrupted, out)
        instant, training = Meeting(), Meeting()

        def together(instant: Meeting = instant, training: Meeting = training) -> None:
            _after_each_step(lambda _: training.wait())  # who goes on waits here until the other has ended
            instant.wait()

        words = ["run", recipe, "--out", out, "--resume"]
        pair = [
            start(call(words, before=together, report=report), out.with_suffix(f".{one}")) for one in range(2)
        ]
        for meeting in (instant, training):
            meeting.leave()
        ends = [wait(running) for running in pair]
        refused = [ended for ended in ends if ended.refused and "in use by process" in ended.told]
        good = [ended for ended in ends if ended.code == 0]
        wrong = "" if len(refused) == len(good) == 1 else f"{[(e.code, e.told[-200:]) for e in ends]}"
        yield f"round {number + 1}", wrong or ", ".join(compare(whole, out))


class Meeting:
    """Where forked processes wait for each other: until every one has come, left or ended."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        self._come = False

    def wait(self) -> None:
        """Come, and wait for the others: a pipe ends when nobody can write to it any more."""
        if not self._come:
            self._come = True
            os.close(self._writing)
            os.read(self._reading, 1)

    def leave(self) -> None:
        """Go on without waiting."""
        os.close(self._writing)
        os.close(self._reading)


def two_runs(recipe: Path, whole: Path, *, report: bool = True) -> Iterator[Outcome]:
    """A second run of a folder is refused and named, whatever it wants; the first one never notices."""
    out = whole.with_name("shared")
    shutil.rmtree(out, ignore_errors=True)

    def stop() -> None:  # in the middle, for as long as it takes
        in_mid_run(lambda: os.kill(os.getpid(), signal.SIGSTOP))

    first = start(call(["run", recipe, "--out", out], before=stop, report=report), out.with_suffix(".log"))
    _, status = os.waitpid(first.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        code = os.waitstatus_to_exitcode(status)
        raise CannotStart(f"the first of two runs ended with exit code {code}, before its middle")
    for words in ([], ["--resume"], ["--overwrite"]):
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
        ended = in_process(
            call(["run", recipe, "--out", out, *words], report=report), out.with_suffix(".second")
        )
        good = ended.refused and f"in use by process {first.pid} on " in ended.told
        good &= before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
        yield (
            f"a second run {' '.join(words)}".strip(),
            "" if good else f"exit code {ended.code}: {ended.told[-300:]}",
        )
    os.kill(first.pid, signal.SIGCONT)
    ended = wait(first)
    wrong = compare(whole, out)
    yield "the first run, meanwhile stopped", "" if ended.code == 0 and not wrong else f"{ended} {wrong}"
