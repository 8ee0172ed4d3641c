"""Time and peak memory of a whole head step: fixed and gradient-free heads against the learnable one.

python -m benchmarks.head_step [--device cuda] [--quick]

Two groups of sizes: ``sizes`` with every side of :mod:`benchmarks.head_sides`, and ``sweep`` over K for
the plots (``python -m benchmarks.head_plots``). Sides of a size take turns in one process, on one thread on a
CPU; there each side's memory is measured in a process of its own (:mod:`benchmarks.memory`). A learnable head
that needs more than the limit for weight, gradient and optimizer state is not run: its row says how many
bytes that would be; that of a side that failed names the error. ``floor`` is cross-entropy on ready logits,
``traffic_floor`` a copy of the bytes that any structured step must move.
"""

from __future__ import annotations

import argparse
import functools
import sys
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from benchmarks.common import Row, case_by_case, keep_in, quartiles, ratio, take_turns
from benchmarks.head_sides import (
    SIDES,
    Inputs,
    Size,
    Step,
    bytes_to_hold,
    bytes_to_move,
    fits,
    held_bytes,
    inputs,
)
from benchmarks.memory import built_on_cuda, in_fresh_process

FLOORS = ("floor", "traffic_floor")
_FUSED = ("union_fused", "union_antipodal_fused", "traffic_floor")
# Each side's memory takes a process of its own, some seconds: these lists keep a CPU's run under ten minutes.
_SMALL = (
    "linear_adamw",
    "linear_sgd",
    "frozen_dense",
    "class_mean",
    "delta_rule",
    "simplex_hadamard",
    "simplex_hadamard_fused",
    "simplex_identity",
    "simplex_identity_fused",
    "simplex_identity_fused_fixed_scale",
    *FLOORS,
)
_MANY = (
    "linear_adamw",
    "linear_sgd",
    "linear_ce",
    "frozen_dense",
    "class_mean_uncentred",
    "delta_rule",
    "union",
    *_FUSED,
    "floor",
)
_MILLION = ("linear_adamw", *_FUSED)
_SWEEP = ("linear_adamw", "frozen_dense", "union", *_FUSED, "floor")
_LIMIT = {"cpu": 8e9, "cuda": 60e9}  # bytes for weight, gradient and optimizer state


class Case(NamedTuple):
    """A size, how often its sides take turns, and which sides; all that fit by default."""

    group: str
    size: Size
    rounds: int
    sides: Sequence[str] = tuple(SIDES)
    dtype: torch.dtype = torch.float32


CPU = [
    Case("sizes", Size(256, 2048, 1000), 60, _SMALL),
    Case("sizes", Size(128, 64, 2000), 40, _MANY),
    Case("sizes", Size(128, 1024, 100_000), 5, _MANY),
    Case("sizes", Size(32, 1024, 1_000_000), 4, _MILLION),
    Case("sweep", Size(128, 1024, 2**10), 30, _SWEEP),
    Case("sweep", Size(128, 1024, 2**12), 15, _SWEEP),
    Case("sweep", Size(128, 1024, 2**14), 8, _SWEEP),
    Case("sweep", Size(128, 1024, 2**16), 4, _SWEEP),
    Case("sweep", Size(128, 1024, 2**18), 3, _SWEEP),
]
_BF16 = torch.bfloat16
_GPU_MANY = (
    "linear_adamw",
    "linear_sgd",
    "linear_autocast",
    "linear_ce",
    "frozen_dense",
    "class_mean",
    "class_mean_uncentred",
    "union",
    "union_antipodal",
    *_FUSED,
    "floor",
)
# Running means of a million classes start from a billion random numbers of the CPU: a quarter of a minute.
_GPU_MILLION = ("linear_adamw", "linear_autocast", "linear_ce", "frozen_dense", "union", *_FUSED, "floor")
_GPU_SWEEP = ("linear_adamw", "linear_autocast", *_SWEEP[1:])
# The most telling sizes first, what is compiled last: that may take a minute.
CUDA = [
    Case("sizes", Size(1024, 1024, 100_000), 30, _GPU_MANY, _BF16),
    Case("sizes", Size(1024, 1024, 1_000_000), 15, _GPU_MILLION, _BF16),
    Case("sizes", Size(1024, 2048, 1000), 50, _SMALL, _BF16),
    Case("sizes", Size(128, 1024, 100_000), 20, _MANY),
    *(Case("sweep", Size(1024, 1024, 2**power), 15, _GPU_SWEEP, _BF16) for power in (10, 12, 14, 16, 18, 20)),
    Case(
        "sizes",
        Size(1024, 1024, 300_000),
        15,
        ("linear_adamw", "linear_compiled", "union_fused", "union_fused_compiled", "floor"),
        _BF16,
    ),
]
QUICK = [
    Case("sizes", Size(256, 2048, 1000), 10),
    Case("sizes", Size(128, 64, 2000), 10),
    Case("sweep", Size(128, 1024, 2**10), 5, _SWEEP),
    Case("sweep", Size(128, 1024, 2**12), 3, _SWEEP),
    Case("sweep", Size(128, 1024, 2**14), 3, _FUSED),
]


def chosen(case: Case, device: str) -> tuple[list[str], list[str]]:
    """Sides of a case that are run, and those that would need too much memory."""
    item = case.dtype.itemsize
    there = [side for side in case.sides if fits(side, case.size, case.dtype)]
    large = [side for side in there if held_bytes(side, case.size, item) > _LIMIT[device]]
    return [side for side in there if side not in large], large


def _built(run: Sequence[str], given: Inputs, *, on_cuda: bool) -> tuple[dict[str, Step], dict[str, Row]]:
    """The sides that can be built, and of the others why not; on CUDA with the memory of each."""
    steps: dict[str, Step] = {}
    known: dict[str, Row] = {}
    for side in run:
        try:
            if on_cuda and side not in FLOORS:
                steps[side], known[side] = built_on_cuda(side, given)
            else:
                steps[side], known[side] = SIDES[side](given), {}
        except Exception as error:
            if not on_cuda:  # there every side is known to run
                raise
            print(f"{side} failed:\n{traceback.format_exc(limit=-6)}", file=sys.stderr, flush=True)
            known[side] = {"not_run": type(error).__name__}
    return steps, known


def measure(case: Case, device: str) -> list[Row]:
    """Seconds of a step of each side, and the ratios to the learnable head and to the floor."""
    there, large = chosen(case, device)
    given = inputs(case.size, device, case.dtype)
    sides, known = _built(there, given, on_cuda=device == "cuda")
    run = list(sides)
    warmup = max(1, min(5, case.rounds // 4))
    seconds = take_turns(sides, rounds=case.rounds, warmup=warmup, device=device, label=str(case.size))
    rows = []
    for side in case.sides:
        row = {
            "group": case.group,
            **case.size._asdict(),
            "dtype": str(case.dtype).split(".")[1],
            "side": side,
        }
        if side in large:
            row |= {"not_run": "too large", "held_bytes": held_bytes(side, case.size, case.dtype.itemsize)}
        elif side in run:
            row |= {"rounds": case.rounds, "seconds": quartiles(seconds[side]), **known[side]}
            if "linear_adamw" in run and side != "traffic_floor":
                row["speedup"] = ratio(seconds["linear_adamw"], seconds[side])
            if "floor" in run and side != "traffic_floor":
                row["ratio_to_floor"] = ratio(seconds[side], seconds["floor"])
        elif side in there:
            row |= known[side]
        else:
            continue
        if side == "traffic_floor":
            row["bytes_to_move"] = bytes_to_move(case.size, case.dtype.itemsize)
            row["bytes_to_hold"] = bytes_to_hold(case.size, case.dtype.itemsize)
        rows.append(row)
    return rows


def add_memory(rows: Iterable[Row]) -> None:
    """Peak memory on a CPU of every side that was run, each in a fresh process, two at a time."""
    heads = [row for row in rows if "seconds" in row and row["side"] not in FLOORS]

    def fill(row: dict[str, Any]) -> None:
        size = Size(*(row[field] for field in Size._fields))
        figures = in_fresh_process(row["side"], size, "cpu", getattr(torch, row["dtype"]))
        row.update({key: value for key, value in figures.items() if key.endswith("_bytes")})

    with ThreadPoolExecutor(2) as pool:
        for _ in tqdm(pool.map(fill, heads), total=len(heads), desc="memory", leave=False, disable=None):
            pass


def table(rows: Sequence[Row]) -> str:
    """What was measured, one line a side."""
    lines, last = [], None
    for row in rows:
        size = Size(*(row[field] for field in Size._fields))
        if size != last:
            lines.append(f"\n{row['group']}: {size}, {row['dtype']}")
            lines.append(
                f"{'':<36}{'ms [quartiles]':>32}{'faster':>9}{'x floor':>9}{'peak MB':>10}{'RSS':>8}"
            )
            last = size
        if "not_run" in row:
            held = f", {row['held_bytes'] / 1e9:.1f} GB for itself" if "held_bytes" in row else ""
            lines.append(f"{row['side']:<36}not run: {row['not_run']}{held}")
            continue
        low, median, high = (1e3 * row["seconds"][key] for key in ("q1", "median", "q3"))
        line = f"{row['side']:<36}{median:>12,.3f} [{low:>8,.3f}, {high:>8,.3f}]"
        line += "".join(
            f"{row[key]['median']:>9.2f}" if key in row else " " * 9 for key in ("speedup", "ratio_to_floor")
        )
        for key, width in (("peak_bytes", 10), ("resident_bytes", 8)):
            line += f"{row[key] / 1e6:>{width},.1f}" if key in row else " " * width
        lines.append(line)
    return "\n".join(lines)


def _measured(case: Case, device: str) -> list[Row]:
    rows = measure(case, device)
    if device == "cpu":
        add_memory(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds; nothing is written")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    chosen_cases = QUICK if args.quick else CUDA if args.device == "cuda" else CPU
    cases = {
        f"{case.group}, {case.size}, {case.dtype}": functools.partial(_measured, case, args.device)
        for case in chosen_cases
    }
    keep = (lambda rows, missing: None) if args.quick else keep_in("head_step", args.device)
    case_by_case(cases, show=table, keep=keep)


if __name__ == "__main__":
    main()
