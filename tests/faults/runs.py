"""Real runs of the command line in processes of their own, which can be killed, starved and compared.

A forked process starts at once: torch is loaded already. Nothing else is shared with this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from etfhead.cli import main

__all__ = [
    "RECIPE",
    "CannotStart",
    "Ended",
    "call",
    "compare",
    "finished_files",
    "in_process",
    "must",
    "report_is_complete",
    "run_folders",
    "start",
    "wait",
    "write_recipe",
]

# A moving average, dropout, a fixed head, and a loss that remembers every image: all of it must come back.
RECIPE = """\
name: faults
model: etfhead_mlp
model_kwargs: {{widths: [24]}}
dataset: digits
img_size: 8
in_chans: 1
drop: 0.1
train_limit: {images}
epochs: {epochs}
batch_size: 16
lr: 0.004
model_ema: true
model_ema_decay: 0.9
collapse_every: {collapse}
cpu: true
seeds: [0]
baseline: learnable
arms:
  learnable: {{head: linear}}
  etf: {{head: etf}}
  early_learning: {{head: linear, loss: early_learning}}
"""
_TIMES = {
    "train_time",
    "align_time",
    "epoch_time",
    "images_per_s",
    "collapse_time",
    "metrics.jsonl",
    "sha256",
}
_TIMEOUT = 300.0


class CannotStart(Exception):  # noqa: N818 - no fault was tried yet
    """What every fault needs, a run that nothing disturbs, did not come to its end."""


def write_recipe(path: Path, *, quick: bool = False, more: str = "") -> Path:
    """The recipe of all faults: three arms, some hundred steps in a few seconds."""
    size = (
        {"images": 160, "epochs": 2, "collapse": 0} if quick else {"images": 480, "epochs": 3, "collapse": 1}
    )
    path.write_text(RECIPE.format(**size) + more, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code, or minus the signal; and all it wrote to the terminal."""

    code: int
    told: str

    @property
    def refused(self) -> bool:
        """Bad input or a fault, told in one line."""
        return self.code == 2 and "Traceback" not in self.told and "etfhead: error:" in self.told


@dataclass(frozen=True)
class Running:
    """A process at work."""

    pid: int
    log: Path


def start(work: Callable[[], int], log: Path) -> Running:
    """Run ``work`` in a process of its own that writes to ``log``."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Running(pid, log)
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        torch.set_num_threads(1)
        # tqdm's own lock is shared with forked processes: one that is killed while it writes would keep it.
        tqdm.set_lock(threading.RLock())
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(running: Running, timeout: float = _TIMEOUT) -> Ended:
    """Wait for the end, by force after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        pid, status = os.waitpid(running.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(running.pid, signal.SIGKILL)
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    return Ended(
        code, running.log.read_text(encoding="utf-8", errors="replace") if running.log.exists() else ""
    )


def in_process(work: Callable[[], int], log: Path) -> Ended:
    """Run ``work`` in a process of its own to its end."""
    return wait(start(work, log))


def must(ended: Ended, what: str, code: int = 0) -> None:
    """Go on only if a process ended as it does where nothing is wrong.

    Raises:
        CannotStart: It ended otherwise.
    """
    if ended.code != code:
        last = ended.told.strip().splitlines()[-1:] or ["it said nothing"]
        raise CannotStart(f"{what} ended with exit code {ended.code}, expected {code}: {last[0]}")


def call(
    words: Sequence[str | Path], *, before: Callable[[], None] = lambda: None, report: bool = True
) -> Callable[[], int]:
    """``etfhead WORDS`` as work for a process; ``before`` prepares the fault inside it."""

    def work() -> int:
        if not report:
            _without_report()
        before()
        return main([str(word) for word in words])

    return work


def _without_report() -> None:
    """Drawing takes longer than these trainings; where the report is not at stake it is left out."""
    import etfhead.experiment.report as package
    from etfhead.cli import commands
    from etfhead.experiment.report import study

    package.write_report = lambda out: out  # type: ignore[assignment]
    study.write_study_report = lambda out: out  # type: ignore[assignment]
    commands._print_table = lambda out: None


def _measured(value: Any) -> Any:
    """A record without what a clock decides."""
    if isinstance(value, dict):
        return {key: _measured(item) for key, item in value.items() if key not in _TIMES}
    return [_measured(item) for item in value] if isinstance(value, list) else value


def compare(whole: Path, other: Path) -> list[str]:
    """What differs between the numbers of two runs: weights bit for bit, figures to the last digit."""
    wrong = []
    seeds, strangers = (
        sorted(seed.relative_to(out) for run in run_folders(out) for seed in run.glob("arms/*/seed*"))
        for out in (whole, other)
    )
    if not seeds or seeds != strangers:
        return [f"trained {len(strangers)} of {len(seeds)}"]
    for seed in seeds:
        one, two = whole / seed, other / seed
        if names := {path.name for path in one.iterdir()} ^ {path.name for path in two.iterdir()}:
            wrong.append(f"{seed}: only one has {sorted(names)}")
            continue
        wrong += [f"{seed}/{p.name}" for p in one.glob("*.safetensors") if _bytes(p) != _bytes(two / p.name)]
        if _measured(json.loads(_bytes(one / "result.json"))) != _measured(
            json.loads(_bytes(two / "result.json"))
        ):
            wrong.append(f"{seed}/result.json")
        rows = [
            [_measured(json.loads(line)) for line in _bytes(p / "metrics.jsonl").splitlines()]
            for p in (one, two)
        ]
        if rows[0] != rows[1]:
            wrong.append(f"{seed}/metrics.jsonl")
    return wrong + [str(path) for path in other.rglob("*.tmp")]


def run_folders(out: Path) -> list[Path]:
    """A run's folder, or a study's with those of its settings."""
    return [out, *sorted((out / "settings").glob("*"))]


def report_is_complete(whole: Path, other: Path) -> str:
    """What a report lacks that the other one has; of a study the settings' too."""
    for run in run_folders(whole):
        mine = other / run.relative_to(whole)
        names = [{path.name for path in folder.iterdir() if path.is_file()} for folder in (run, mine)]
        if names[0] != names[1]:
            return f"{mine}: only one has {sorted(names[0] ^ names[1])}"
        summary = json.loads(_bytes(mine / "summary.json"))
        if summary["finished"] != summary["expected"]:
            return f"{mine}: the report knows {summary['finished']} of {summary['expected']} trainings"
        if not all((mine / name).stat().st_size for name in names[1]):
            return f"{mine}: an empty file"
    return ""


def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def finished_files(out: Path) -> dict[Path, bytes]:
    """Every file of the arms and seeds that have finished."""
    found = {}
    for result in [path for run in run_folders(out) for path in run.glob("arms/*/seed*/result.json")]:
        for path in result.parent.iterdir():
            if path.name.startswith(
                "state.prev"
            ):  # a run killed at its very end leaves it for the next one to remove
                continue
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.read_bytes()
    return found
