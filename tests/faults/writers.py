"""``etfhead export`` and ``etfhead report`` killed between file operations: what has a name is whole."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.kills import Outcome, at_step, count_steps
from tests.faults.runs import CannotStart, call, in_process, must

__all__ = ["exportable_run", "kill_export", "kill_report"]

_Files = dict[str, bytes]


def exportable_run(recipe: Path, out: Path) -> Path:
    """A finished run of a stock model."""
    words: list[str | Path] = ["run", recipe, "model=test_resnet", "model_kwargs={}", "img_size=32"]
    ended = in_process(
        call([*words, "~arms.early_learning", "--out", out], report=False), out.with_suffix(".log")
    )
    must(ended, "the run of a stock model")
    return out


def kill_export(
    run: Path, *, every: int = 1, at: Callable[[int], list[int]] | None = None
) -> Iterator[Outcome]:
    """Kill an export that replaces an earlier one; then export again.

    Args:
        run: From :func:`exportable_run`.
        every: Kill at one of so many steps.
        at: Chooses the steps instead, given their number.
    """
    log, out = run.with_suffix(".log"), run.with_name("exports") / "model"
    command: list[str | Path] = ["export", run, "--arm", "etf", "--overwrite", "--out", out]
    must(in_process(call([*command, "--weights", "best"]), log), "the export")
    new = _files(out)
    must(in_process(call([*command, "--weights", "last"]), log), "the earlier export")
    old, kept = _files(out), shutil.copytree(out, run.with_name("kept"))
    if old == new:
        raise CannotStart("two exports of different weights are the same")
    steps = count_steps(lambda before: call([*command, "--weights", "best"], before=before), log)
    for step in at(steps) if at is not None else range(1, steps + 1, every):
        shutil.rmtree(out.parent)
        out.parent.mkdir()
        shutil.copytree(kept, out)
        what = f"export killed at file step {step} of {steps}"
        killed = call([*command, "--weights", "best"], before=lambda at=step: at_step(at, _die))
        if in_process(killed, log).code != -signal.SIGKILL:
            yield what, "was not killed"
            continue
        yield (
            what,
            _judge_export(out, old, new)
            or _export_again(call([*command, "--weights", "best"]), log, out, new),
        )


def _judge_export(out: Path, old: _Files, new: _Files) -> str:
    if out.exists():
        return "" if _files(out) in (old, new) else f"{out} is neither the old export nor the new one"
    # Between the two renames of a folder: no system has one that replaces a folder that is not empty.
    hidden = [_files(path) for path in out.parent.glob(".*")]
    return "" if old in hidden else "the earlier export is lost"


def _export_again(command: Callable[[], int], log: Path, out: Path, new: _Files) -> str:
    ended = in_process(command, log)
    if ended.code != 0:
        return f"exporting again: exit code {ended.code}: {ended.told[-300:]}"
    if _files(out) != new:
        return "exporting again gave another export"
    left = sorted(path.name for path in out.parent.iterdir() if path != out)
    return f"left behind: {left}" if left else ""


def kill_report(whole: Path, place: Path, *, every: int = 1) -> Iterator[Outcome]:
    """Kill a report that replaces one of fewer trainings; then write it again.

    Args:
        whole: A finished run with its report.
        place: An empty folder.
        every: Kill at one of so many steps.
    """
    log, out, kept = place / "log", place / "run", place / "kept"
    shutil.copytree(whole, kept)
    result = kept / "arms/etf/seed0/result.json"
    finished = result.read_bytes()
    result.unlink()
    must(in_process(call(["report", kept]), log), "the report of an unfinished run")
    old = _files(kept)
    result.write_bytes(finished)
    shutil.copytree(kept, out)
    steps = count_steps(lambda before: call(["report", out], before=before), log)
    new = _files(out)
    if old.keys() != new.keys() or old == new:
        raise CannotStart("the reports of a finished and an unfinished run do not differ as expected")
    for step in range(1, steps + 1, every):
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        what = f"report killed at file step {step} of {steps}"
        ended = in_process(call(["report", out], before=lambda at=step: at_step(at, _die)), log)
        if ended.code != -signal.SIGKILL:
            yield what, f"was not killed (exit code {ended.code})"
            continue
        found = {name: data for name, data in _files(out).items() if not name.endswith(".tmp")}
        half = [name for name in old if found.get(name) not in (old[name], new[name])]
        if half or found.keys() != old.keys():
            yield what, f"neither old nor new: {half or sorted(found.keys() ^ old.keys())}"
            continue
        again = in_process(call(["report", out]), log)
        yield what, "" if again.code == 0 and _files(out) == new else "writing it again gave another report"


def _files(folder: Path) -> _Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
