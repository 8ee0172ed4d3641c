"""All faults as rows of one table, each tried in a process and a folder of its own, several at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import corruptions, folders, kills, others, payloads, processes, programs, workers, writers
from tests.faults.not_finite import not_finite
from tests.faults.runs import CannotStart, Ended, Running, call, in_process, must, start, write_recipe

__all__ = ["ROWS", "Runs", "prepare", "try_rows"]

_SEED = 0
_SETTINGS = "settings:\n  slow: {lr: 0.002}\n  fast: {lr: 0.006}\n"

Tried = tuple[Iterable[kills.Outcome], Callable[[], str]]  # what was tried, and words on it for the table


@dataclass(frozen=True)
class Runs:
    """What the faults are planted in: runs that nothing disturbed, and how long they take.

    Args:
        recipe: Some hundred steps; ``small`` and ``study`` are shorter.
        large: Folder of ``recipe``'s run; ``little``, ``settings`` and ``stock`` are those of the others.
        interrupted: A run of ``small`` that was stopped.
        seconds: Of ``recipe``; ``study_seconds`` of ``study``.
        steps: File operations of ``small``; ``study_steps`` of ``study``.
        kills: At random moments.
        flips: Bits flipped in each file.
    """

    recipe: Path
    small: Path
    study: Path
    large: Path
    little: Path
    settings: Path
    stock: Path
    interrupted: Path
    seconds: float
    study_seconds: float
    steps: int
    study_steps: int
    kills: int
    flips: int


def prepare(place: Path, *, kills_at_random: int, flips: int) -> Runs:
    """Make the runs that nothing disturbs.

    Raises:
        CannotStart: One of them failed.
    """
    recipe, small = write_recipe(place / "recipe.yaml"), write_recipe(place / "small.yaml", quick=True)
    study = write_recipe(place / "study.yaml", quick=True, more=_SETTINGS)

    def steps(of: Path) -> int:
        out = place / f"counted-{of.stem}"
        return kills.count_steps(
            lambda before: call(["run", of, "--out", out], before=before), place / f"{of.stem}.log"
        )

    (large, seconds), (settings, study_seconds) = _whole(place / "large", recipe), _whole(place / "s", study)
    little, _ = _whole(place / "little", small)
    return Runs(
        recipe=recipe,
        small=small,
        study=study,
        large=large,
        little=little,
        settings=settings,
        stock=writers.exportable_run(small, place / "stock"),
        interrupted=corruptions.interrupted_run(small, little),
        seconds=seconds,
        study_seconds=study_seconds,
        steps=steps(small),
        study_steps=steps(study),
        kills=kills_at_random,
        flips=flips,
    )


def _whole(place: Path, recipe: Path) -> tuple[Path, float]:
    place.mkdir()
    began = time.perf_counter()
    ended = in_process(call(["run", recipe, "--out", place / "whole"]), place / "log")
    must(ended, f"the run of {recipe.name} that nothing disturbs")
    return place / "whole", time.perf_counter() - began


def _verdicts(found: Iterable[corruptions.Verdict], counts: Counter[str]) -> Iterable[kills.Outcome]:
    for verdict in found:
        counts[verdict.outcome] += 1
        wrong = f"MISSED: {verdict.why}" if verdict.outcome == "MISSED" else ""
        yield f"{verdict.file}: {verdict.damage}", wrong


def _staged(outcomes: Iterable[kills.Outcome], counts: Counter[str]) -> Iterable[kills.Outcome]:
    for what, wrong in outcomes:
        counts[what.partition("(")[2].partition(")")[0]] += 1
        yield what, wrong


def _words(counts: Counter[str]) -> Callable[[], str]:
    return lambda: ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))


def _own(source: Path, place: Path) -> Path:
    """A copy of a run: faults put what they change beside it."""
    return shutil.copytree(source, place / source.name)


def _random_kills(runs: Runs, place: Path) -> Tried:
    counts: Counter[str] = Counter()
    whole = _own(runs.large, place)
    found = kills.kill_at_random_times(runs.recipe, whole, runs.seconds, kills=runs.kills, seed=_SEED)
    return _staged(found, counts), _words(counts)


def _random_kills_of_a_study(runs: Runs, place: Path) -> Tried:
    counts: Counter[str] = Counter()
    whole, number = _own(runs.settings, place), max(1, runs.kills // 4)
    found = kills.kill_at_random_times(runs.study, whole, runs.study_seconds, kills=number, seed=_SEED)
    return _staged(found, counts), _words(counts)


def _kills_at_steps(runs: Runs, place: Path) -> Tried:
    every = list(range(1, runs.steps, 9))
    found = kills.kill_at_steps(runs.small, _own(runs.little, place), every)
    return found, lambda: f"every 9th of {runs.steps}"


def _study_kills_at_steps(runs: Runs, place: Path) -> Tried:
    every = list(range(5, runs.study_steps, 163))
    found = kills.kill_at_steps(runs.study, _own(runs.settings, place), every)
    return found, lambda: f"every 163rd of {runs.study_steps}"


def _kills_in_overwrite(runs: Runs, place: Path) -> Tried:
    own = _own(runs.little, place)
    options: dict[str, Any] = {"words": ("--overwrite",), "prepare": own}
    return kills.kill_at_steps(runs.small, own, list(range(2, 60, 6)), **options), lambda: "then --resume"


def _signals(runs: Runs, place: Path) -> Tried:
    which = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    steps = list(range(2, runs.steps, 25))
    found = kills.signal_at_steps(runs.small, _own(runs.little, place), steps, which)
    return found, lambda: "then --resume"


def _signals_to_the_group(runs: Runs, place: Path) -> Tried:
    which = (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    found = workers.signal_the_group(runs.small, _own(runs.little, place), list(workers.MOMENTS), which)
    return found, lambda: "nobody is left, then --resume"


def _dead_workers(runs: Runs, place: Path) -> Tried:
    found = workers.kill_one_worker(runs.small, _own(runs.little, place), list(workers.WITH_WORKERS))
    return found, lambda: "told in a line, then --resume"


def _damage(runs: Runs, place: Path) -> Tried:
    counts: Counter[str] = Counter()
    whole, interrupted = _own(runs.little, place), _own(runs.interrupted, place)
    found = corruptions.corrupt_resume(runs.small, whole, interrupted, flips=runs.flips, seed=_SEED)
    return _verdicts(found, counts), _words(counts)


def _damage_to_export(runs: Runs, place: Path) -> Tried:
    counts: Counter[str] = Counter()
    found = corruptions.corrupt_export(_own(runs.little, place), flips=25 * runs.flips, seed=_SEED)
    return _verdicts(found, counts), _words(counts)


def _one_full_operation(runs: Runs, place: Path) -> Tried:
    found = others.full_disk_at_steps(runs.small, _own(runs.little, place), list(range(1, runs.steps, 23)))
    return found, lambda: f"every 23rd of {runs.steps}"


def _read_only(runs: Runs, place: Path) -> Tried:
    steps = [1, runs.steps // 5, runs.steps // 2, runs.steps - 20]
    return folders.read_only(runs.small, _own(runs.little, place), steps), lambda: "refused in one line"


def _sizes(runs: Runs, place: Path) -> Tried:
    found = others.full_disk(runs.small, _own(runs.little, place), [8, 40, 100, 200, 400, 700])
    return found, lambda: "8 to 700 kB"


def _together(runs: Runs, place: Path) -> Tried:
    whole, interrupted = _own(runs.little, place), _own(runs.interrupted, place)
    return folders.started_together(runs.small, whole, interrupted, 4), lambda: "one goes on, one is refused"


ROWS: dict[str, Callable[[Runs, Path], Tried]] = {
    "damaged files, --resume": _damage,
    "kill -9 at random moments": _random_kills,
    "kill -9 between file operations": _kills_at_steps,
    "kill -9 during --overwrite": _kills_in_overwrite,
    "kill -9 of a study": _random_kills_of_a_study,
    "kill -9 of a study, file operations": _study_kills_at_steps,
    "kill -9 of one of two processes": lambda runs, place: (
        processes.kill_one_of_two(runs.small, place), lambda: "the other one ends, both resume"),
    "kill -9 of an export": lambda runs, place: (
        writers.kill_export(_own(runs.stock, place), every=3), lambda: "old or new, never half"),
    "kill -9 of a report": lambda runs, place: (
        writers.kill_report(runs.little, place, every=5), lambda: "old or new, never half"),
    "SIGINT, SIGTERM, SIGHUP anywhere": _signals,
    "SIGTERM to the whole group, workers": _signals_to_the_group,
    "kill -9 of a loading process": _dead_workers,
    "damaged files, export": _damage_to_export,
    "full disk": _sizes,
    "ENOSPC at one file operation": _one_full_operation,
    "read-only file system": _read_only,
    "folder removed or replaced": lambda runs, place: (
        folders.changed_folders(runs.small, _own(runs.little, place)), lambda: "nothing is written into it"),
    "NaN and Inf": lambda runs, place: (
        not_finite(runs.small, _own(runs.little, place)), lambda: "stops, says where, resumes"),
    "two runs in one folder": lambda runs, place: (
        folders.two_runs(runs.small, _own(runs.little, place)), lambda: "second refused, first unharmed"),
    "two --resume at one instant": _together,
    "pickles in files": lambda runs, place: (
        payloads.code_in_files(runs.small, runs.little, place), lambda: "0 executed"),
    "Python tags in YAML": lambda runs, place: (
        payloads.code_in_text(runs.small, runs.little, place), lambda: "0 executed"),
    "code in programs (.pt2)": lambda runs, place: (
        programs.code_in_programs(runs.little, place), lambda: "0 executed"),
    "links and climbing names": lambda runs, place: (
        payloads.links_and_names(runs.small, runs.little, place), lambda: "nothing outside changed"),
    "markup in reports": lambda runs, place: (
        payloads.scripts_in_reports(runs.little, place), lambda: "0 active elements"),
}  # fmt: skip


def try_rows(
    runs: Runs, place: Path, names: Iterable[str], *, jobs: int, tell: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Try rows of the table.

    Args:
        runs: From :func:`prepare`.
        place: Where each row gets a folder.
        names: Of :data:`ROWS`.
        jobs: Rows at a time.
        tell: Called with each record, in the order of the rows.

    Returns:
        One record a row: fault, tried, survived, detail, failed (what and how), seconds.
    """
    waiting, running, ended = list(names), dict[str, Running](), dict[str, dict[str, Any]]()
    order, told = list(waiting), 0
    while told < len(order):
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            folder = place / f"row{order.index(name)}"
            folder.mkdir()
            running[name] = start(lambda name=name, folder=folder: _row(runs, name, folder), _log(folder))
        for name in list(running):
            pid, _ = os.waitpid(running[name].pid, os.WNOHANG)
            if pid:
                folder = place / f"row{order.index(name)}"
                ended[name] = _record(name, folder, running.pop(name))
                shutil.rmtree(folder, ignore_errors=True)
        while told < len(order) and order[told] in ended:
            tell(ended[order[told]])
            told += 1
        time.sleep(0.05)
    return [ended[name] for name in order]


def _log(folder: Path) -> Path:
    return folder.with_suffix(".log")


def _row(runs: Runs, name: str, folder: Path) -> int:
    began = time.perf_counter()
    found: list[kills.Outcome] = []
    words = ""
    try:
        outcomes, detail = ROWS[name](runs, folder)
        found += outcomes
        words = detail()
    except CannotStart as error:
        found.append(("start", str(error)))
    failed = {what: wrong for what, wrong in found if wrong}
    record = {
        "fault": name,
        "tried": len(found),
        "survived": len(found) - len(failed),
        "detail": words if not failed else " ".join(next(iter(failed.values())).split())[:60],
        "failed": failed,
        "seconds": round(time.perf_counter() - began, 1),
    }
    folder.with_suffix(".json").write_text(json.dumps(record))
    return 0


def _record(name: str, folder: Path, row: Running) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(folder.with_suffix(".json").read_text())
    except (OSError, ValueError):
        told = Ended(1, row.log.read_text(errors="replace")).told.strip().splitlines() or ["said nothing"]
        broke = {"the row itself": told[-1]}
        return {
            "fault": name,
            "tried": 0,
            "survived": 0,
            "detail": "broke off",
            "failed": broke,
            "seconds": 0.0,
        }
    return found
