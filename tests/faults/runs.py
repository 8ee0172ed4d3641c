"""Real runs of the command line in processes of their own, which can be killed, starved and compared.

A forked process starts at once: torch is loaded already. Nothing else is shared with this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from etfhead.cli import main

__all__ = [
    "RECIPE",
    "Ended",
    "call",
    "compare",
    "finished_files",
    "in_process",
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
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
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

    package.write_report = lambda out: out  # type: ignore[assignment]
    commands._print_table = lambda out: None


def _measured(value: Any) -> Any:
    """A record without what a clock decides."""
    if isinstance(value, dict):
        return {key: _measured(item) for key, item in value.items() if key not in _TIMES}
    return [_measured(item) for item in value] if isinstance(value, list) else value


def compare(whole: Path, other: Path) -> list[str]:
    """What differs between the numbers of two runs: weights bit for bit, figures to the last digit."""
    wrong = []
    seeds = sorted(path.relative_to(whole) for path in whole.glob("arms/*/seed*"))
    strangers = sorted(path.relative_to(other) for path in other.glob("arms/*/seed*"))
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


def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def finished_files(out: Path) -> dict[Path, bytes]:
    """Every file of the arms and seeds that have finished."""
    found = {}
    for result in out.glob("arms/*/seed*/result.json"):
        for path in result.parent.iterdir():
            if path.name.startswith(
                "state.prev"
            ):  # a run killed at its very end leaves it for the next one to remove
                continue
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.read_bytes()
    return found
