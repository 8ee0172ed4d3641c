"""A run of two processes of which one is killed: the other ends by itself, and the run goes on from there."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.kills import Outcome
from tests.faults.runs import Ended, Running, call, compare, finished_files, must, start, wait

__all__ = ["kill_one_of_two"]

_PATIENCE = 300.0  # seconds in which a process must notice that the other has gone


def kill_one_of_two(recipe: Path, place: Path, *, report: bool = True) -> Iterator[Outcome]:
    """Kill the writing process, the other one, and both, in training and in the report.

    Args:
        recipe: Its file.
        place: An empty folder.
        report: Write the report too.
    """
    whole, out = place / "whole", place / "killed"
    for rank, ended in enumerate(_ends(_launch(recipe, whole, (), report))):
        must(ended, f"process {rank} of two that nothing disturbed")
    second = "arms/etf/seed0/state.pt"
    for ranks, after in (
        ((0,), second),
        ((1,), second),
        ((0, 1), second),
        ((1,), "arms/learnable/seed0/state.pt"),
    ):
        shutil.rmtree(out, ignore_errors=True)
        pair = _launch(recipe, out, (), report)
        what = f"process {' and '.join(map(str, ranks))} killed after {after.split('/')[1]}'s first epoch"
        deadline = time.monotonic() + _PATIENCE
        while not (out / after).exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        done = finished_files(out)
        for rank in ranks:
            os.kill(pair[rank].pid, signal.SIGKILL)
        ends = _ends(pair, _PATIENCE)
        left = [ended for rank, ended in enumerate(ends) if rank not in ranks]
        if hanging := [ended for ended in left if ended.code == -signal.SIGKILL]:
            yield what, f"the other process hung: {hanging[0].told[-300:]}"
            continue
        if wrong := [ended for ended in left if not ended.refused or "another of the 2" not in ended.told]:
            yield what, f"the other process: exit code {wrong[0].code}: {wrong[0].told[-300:]}"
            continue
        again = _ends(_launch(recipe, out, ("--resume",), report))
        if failed := [ended for ended in again if ended.code]:
            yield what, f"resume: exit code {failed[0].code}: {failed[0].told[-300:]}"
            continue
        lost = [str(path) for path, data in done.items() if path.read_bytes() != data]
        yield what, f"finished files changed: {lost}" if lost else ", ".join(compare(whole, out))


def _launch(recipe: Path, out: Path, words: tuple[str, ...], report: bool) -> list[Running]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]

    def as_rank(rank: int) -> Callable[[], None]:
        def prepare() -> None:
            # As torchrun tells it, without an agent that would end the other process.
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
            os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))

        return prepare

    return [
        start(
            call(["run", recipe, "--out", out, *words], before=as_rank(rank), report=report),
            out.with_suffix(f".{rank}"),
        )
        for rank in range(2)
    ]


def _ends(pair: list[Running], timeout: float = 300.0) -> list[Ended]:
    return [wait(running, timeout) for running in pair]
