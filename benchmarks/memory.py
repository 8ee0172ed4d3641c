"""Peak memory of one head's step, in a process of its own; one line of JSON.

python -m benchmarks.memory SIDE B d K [--device cuda] [--dtype bfloat16]

``peak_bytes`` is the largest number of bytes that torch's allocator had given out during a step: parameters
and fixed vectors, gradients (that of the features too), optimizer state, logits and temporaries. Features and
targets are left out, and so is what only building the head takes. On a CPU it is counted from the
profiler's record of every allocation; on CUDA ``torch.cuda.max_memory_allocated`` counts as exactly, and
head_step asks it itself, without processes. ``held_bytes`` is
what is left between steps. ``resident_bytes`` (CPU) is a check by other means: how far the process' physical
memory rose above what it had before the head was built (VmHWM, reset through /proc/self/clear_refs), with
what libraries below torch take and with what the C library keeps; it is off by a few MB, both ways.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.common import on_cuda
from benchmarks.head_sides import SIDES, Inputs, Size, Step, fits, inputs

_TINY = Size(8, 512, 512)  # a step at this size loads what the libraries load once, for every side
_STEPS = 2  # optimizer state exists from the second step on
_MARK = "measured steps"


def measure(side: str, size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Peak, held and resident bytes of a side, in this process."""
    if device == "cuda":
        figures: dict[str, Any] = built_on_cuda(side, inputs(size, "cuda", dtype))[1]
    else:
        figures = _on_cpu(side, size, dtype)
    return {"side": side, "size": size._asdict(), **figures}


def _on_cpu(side: str, size: Size, dtype: torch.dtype) -> dict[str, Any]:
    if fits(side, _TINY):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True):
            _steps(side, _TINY, "cpu", dtype)
    given = inputs(size, "cpu", dtype)
    _forget()
    before = _status("VmRSS")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step = SIDES[side](given)
        for _ in range(_STEPS):
            step()
        _forget()
        Path("/proc/self/clear_refs").write_text("5")
        with record_function(_MARK):
            step()
        resident = _status("VmHWM") - before
    assert record.profiler is not None
    held, peak = _replayed(record.profiler.kineto_results.events())
    return {"peak_bytes": peak, "held_bytes": held, "resident_bytes": resident}


def _replayed(events: Iterable[Any]) -> tuple[int, int]:
    """Bytes given out when the marked step begins, and the most during it."""
    total = held = peak = 0
    inside = False
    end = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == _MARK:
            inside, held, peak, end = True, total, total, event.end_ns()
        elif event.name() == "[memory]":
            total += event.nbytes()
            if inside and event.start_ns() <= end:
                peak = max(peak, total)
    return held, peak


def built_on_cuda(side: str, given: Inputs) -> tuple[Step, dict[str, int]]:
    """A side's step, and its peak and held bytes, in this process."""
    dtype = given.features.dtype
    if fits(side, _TINY, dtype) and "compiled" not in side:  # the workspaces that cuBLAS keeps
        _steps(side, _TINY, "cuda", dtype)
    given.features.grad = None
    return on_cuda(lambda: SIDES[side](given))


def _steps(side: str, size: Size, device: str, dtype: torch.dtype) -> None:
    step = SIDES[side](inputs(size, device, dtype))
    for _ in range(_STEPS):
        step()


def _forget() -> None:
    """Give freed memory back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def in_fresh_process(
    side: str, size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", side, *map(str, size)]
    command += ["--device", device, "--dtype", str(dtype).removeprefix("torch.")]
    one_thread = {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}
    root = Path(__file__).parent.parent
    answer = subprocess.run(command, capture_output=True, text=True, env=os.environ | one_thread, cwd=root)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{answer.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    for name in Size._fields:
        parser.add_argument(name, type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    size = Size(args.batch_size, args.in_features, args.num_classes)
    print(json.dumps(measure(args.side, size, args.device, getattr(torch, args.dtype))))


if __name__ == "__main__":
    main()
