"""``kill -9`` at any moment: the run continues to the numbers of one that was left alone."""

from __future__ import annotations

import builtins
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.runs import (
    Running,
    call,
    compare,
    finished_files,
    in_process,
    must,
    report_is_complete,
    run_folders,
    start,
    wait,
)

__all__ = ["Outcome", "at_step", "count_steps", "kill_at_random_times", "kill_at_steps", "signal_at_steps"]

Outcome = tuple[str, str]  # what was done, and what went wrong ("" = survived)


def kill_at_random_times(
    recipe: Path, whole: Path, seconds: float, *, kills: int, seed: int, report: bool = True
) -> Iterator[Outcome]:
    """Kill at moments spread over the whole run, resume, and compare with the run that was left alone.

    Every third run is killed a second time while it resumes.

    Args:
        recipe: Its file.
        whole: Folder of the uninterrupted run.
        seconds: How long that took.
        kills: How many.
        seed: Of the moments.
        report: Write the report too.
    """
    rng = random.Random(seed)
    out = whole.with_name("killed")
    for number in range(kills):
        shutil.rmtree(out, ignore_errors=True)
        moments = [seconds * (number + rng.random()) / kills]
        if number % 3 == 2:
            moments.append(seconds * rng.random())
        words: list[str | Path] = ["run", recipe, "--out", out]
        done: dict[Path, bytes] = {}
        stages: list[str] = []
        for at, moment in enumerate(moments):
            while (
                not _kill_after(start(call(words, report=report), out.with_suffix(".log")), moment) and not at
            ):
                moment *= 0.7  # the machine was faster than when it was timed: the run had ended
                moments[at] = moment
                shutil.rmtree(out, ignore_errors=True)
            done |= finished_files(out)
            stages.append(_stage(out))
            words = ["run", recipe, "--out", out, "--resume"]
        where = " and again after ".join(
            f"{moment:.2f} s ({stage})" for moment, stage in zip(moments, stages, strict=True)
        )
        yield f"killed after {where} of {seconds:.2f} s", _resume(recipe, whole, out, done, report)


def kill_at_steps(
    recipe: Path, whole: Path, steps: list[int], *, words: tuple[str, ...] = (), prepare: Path | None = None,
    report: bool = True,
) -> Iterator[Outcome]:  # fmt: skip
    """Kill at given steps of writing files: before and after each rename, sync, deletion and opening.

    Args:
        recipe: Its file.
        whole: Folder of the uninterrupted run.
        steps: Numbers of the steps, of those that :func:`count_steps` counted.
        words: More words of the command that is killed, as ``--overwrite``.
        prepare: A folder that the run starts with a copy of.
        report: Write the report too.
    """
    out = whole.with_name("killed")
    for step in steps:
        shutil.rmtree(out, ignore_errors=True)
        if prepare is not None:
            shutil.copytree(prepare, out)
        command = call(
            ["run", recipe, "--out", out, *words], before=lambda at=step: at_step(at, _die), report=report
        )
        ended = in_process(command, out.with_suffix(".log"))
        if ended.code != -signal.SIGKILL:
            yield (
                f"killed at file step {step}",
                f"was not killed (exit code {ended.code}: {ended.told[-200:]})",
            )
            continue
        done = {} if words else finished_files(out)
        yield f"killed at file step {step}", _resume(recipe, whole, out, done, report)


def signal_at_steps(
    recipe: Path, whole: Path, steps: list[int], signals: tuple[int, ...], *, report: bool = True
) -> Iterator[Outcome]:
    """Ask a run to stop wherever it is: it ends with the signal's exit code and without a traceback.

    Args:
        recipe: Its file.
        whole: Folder of the uninterrupted run.
        steps: As for :func:`kill_at_steps`.
        signals: Taken in turn.
        report: Write the report too.
    """
    out, sent = whole.with_name("signalled"), whole.with_name("sent")
    for number, step in enumerate(steps):
        shutil.rmtree(out, ignore_errors=True)
        signum = signals[number % len(signals)]
        command = call(
            ["run", recipe, "--out", out],
            before=lambda at=step, by=signum: at_step(at, lambda: _signal(by, sent)),
            report=report,
        )
        ended = in_process(command, out.with_suffix(".log"))
        what = f"{signal.Signals(signum).name} at file step {step}"
        if not sent.exists():
            yield what, f"was not sent (exit code {ended.code}: {ended.told[-200:]})"
            continue
        sent.unlink()
        # 0: it came after the last training, and what was left to do was done.
        if ended.code not in (128 + signum, -signum, 0) or "Traceback" in ended.told:
            yield what, f"exit code {ended.code}: {ended.told[-300:]}"
            continue
        yield what, _resume(recipe, whole, out, finished_files(out), report)


def count_steps(work: Callable[[Callable[[], None]], Callable[[], int]], log: Path) -> int:
    """Number of steps of writing files that a command takes.

    Args:
        work: Makes the command, given what to prepare in its process.
        log: Where it writes.
    """
    counted = log.with_suffix(".steps")
    made = work(lambda: at_step(0, lambda: None, counted))
    must(in_process(made, log), "a run whose file operations were counted")
    return len(counted.read_bytes())


def at_step(
    step: int, act: Callable[[], None], counted: Path | None = None, *, onwards: bool = False
) -> None:
    """In this process, act between two file operations; each counts as a step before it and one after.

    Args:
        step: Which one.
        act: What happens there.
        counted: Grows by a byte at each step.
        onwards: Act at every later step too.
    """
    handle = None if counted is None else os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    taken = 0

    def tick() -> None:
        nonlocal taken
        taken += 1
        if handle is not None:
            os.write(handle, b".")
        if taken == step or (onwards and taken > step):
            act()

    def around(operation: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **options: object) -> object:
            tick()
            result = operation(*args, **options)
            tick()
            return result

        return wrapped

    for name in ("replace", "fsync", "unlink", "rmdir", "mkdir"):
        setattr(os, name, around(getattr(os, name)))
    from etfhead.experiment import files

    files.open = around(builtins.open)  # type: ignore[attr-defined]


def _signal(signum: int, sent: Path) -> None:
    sent.touch()
    os.kill(os.getpid(), signum)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_after(running: Running, seconds: float) -> bool:
    """Whether it was still running then."""
    time.sleep(seconds)
    os.kill(running.pid, signal.SIGKILL)
    return wait(running).code == -signal.SIGKILL


def _stage(out: Path) -> str:
    """What a run or study was at when it was killed."""
    if settings := list((out / "settings").glob("*")):
        done = sum((path / "report.html").exists() for path in settings)
        every = (out / "recipe.yaml").read_text().partition("\nsettings:")[2].count("lr:")
        return "study's report" if done == every else f"setting {done + 1} of {every}"
    if not (out / "data.json").exists():
        return "starting"
    done, half = len(list(out.glob("arms/*/*/result.json"))), any(out.rglob("*.tmp"))
    arms = len((out / "recipe.yaml").read_text().partition("\narms:")[2].split("head:")) - 1
    at = f"arm {done + 1} of {arms}" if done < arms else "report"
    return f"{at}, in a file" if half else at


def _resume(recipe: Path, whole: Path, out: Path, done: dict[Path, bytes], report: bool) -> str:
    command = call(["run", recipe, "--out", out, "--resume"], report=report)
    ended = in_process(command, out.with_suffix(".log"))
    if ended.code != 0:
        return f"resume failed with exit code {ended.code}: {ended.told[-300:]}"
    if lost := [str(path) for path, data in done.items() if not path.exists() or path.read_bytes() != data]:
        return f"finished files changed: {lost}"
    if wrong := compare(whole, out):
        return f"other numbers: {wrong}"
    if report and (wrong_report := report_is_complete(whole, out)):
        return wrong_report
    locks = [folder / "run.lock" for folder in run_folders(out) if (folder / "run.lock").exists()]
    return f"{locks} are left" if locks else ""
