"""A full disk, simulated by size and by a single file operation that fails."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.kills import Outcome, at_step
from tests.faults.runs import call, compare, finished_files, in_process

__all__ = ["full_disk", "full_disk_at_steps"]


def full_disk(recipe: Path, whole: Path, kilobytes: list[int]) -> Iterator[Outcome]:
    """Run on a file system of that size: a tmpfs where this user may mount one, else a limit on files' sizes.

    Args:
        recipe: Its file.
        whole: Folder of the uninterrupted run.
        kilobytes: Sizes, too small for the run.
    """
    place = whole.with_name("disk")
    place.mkdir(exist_ok=True)
    for size in kilobytes:
        out = place / "run"
        shutil.rmtree(out, ignore_errors=True)
        mounted = _mount(place, size)
        try:
            what = f"{'tmpfs' if mounted else 'files'} of {size} kB"
            limit = _nothing if mounted else _limit_files(size)
            ended = in_process(call(["run", recipe, "--out", out], before=limit), place.with_suffix(".log"))
            if not _refused(ended.code, ended.told, "No space left", "File too large", "Disk quota"):
                yield what, f"exit code {ended.code}: {ended.told[-300:]}"
                continue
            done = finished_files(out)
            if mounted:
                subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
            yield what, _goes_on(recipe, whole, out, done)
        finally:
            if mounted:
                subprocess.run(["umount", str(place)], check=True)


def full_disk_at_steps(recipe: Path, whole: Path, steps: list[int]) -> Iterator[Outcome]:
    """Let one file operation fail with ENOSPC, wherever it is, and go on when there is space again."""
    out = whole.with_name("full")
    for step in steps:
        shutil.rmtree(out, ignore_errors=True)
        command = call(["run", recipe, "--out", out], before=lambda at=step: at_step(at, _no_space))
        ended = in_process(command, out.with_suffix(".log"))
        done = finished_files(out)
        if ended.code != 0 and not _refused(ended.code, ended.told, "No space left"):
            yield f"ENOSPC at file step {step}", f"exit code {ended.code}: {ended.told[-300:]}"
            continue
        yield f"ENOSPC at file step {step}", _goes_on(recipe, whole, out, done)


def _no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _nothing() -> None:
    return


def _limit_files(kilobytes: int) -> Callable[[], None]:
    import resource  # Windows has none

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    return limit


def _mount(place: Path, kilobytes: int) -> bool:
    if shutil.which("mount") is None or os.geteuid() != 0:
        return False
    words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _refused(code: int, told: str, *reasons: str) -> bool:
    return code == 2 and "Traceback" not in told and any(reason in told for reason in reasons)


def _goes_on(recipe: Path, whole: Path, out: Path, done: dict[Path, bytes]) -> str:
    ended = in_process(call(["run", recipe, "--out", out, "--resume"]), out.with_suffix(".log"))
    if ended.code != 0:
        return f"resume failed with exit code {ended.code}: {ended.told[-300:]}"
    if lost := [str(path) for path, data in done.items() if not path.exists() or path.read_bytes() != data]:
        return f"finished files changed: {lost}"
    return f"other numbers: {wrong}" if (wrong := compare(whole, out)) else ""
