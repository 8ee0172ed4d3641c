"""How every benchmark here measures: warm-up, interleaved repeats, median and quartiles, recorded machine.

The contract: both sides run in one process and take turns, so that a slow minute of the machine hits both;
the first rounds are thrown away; a CUDA device is synchronised inside the timed region; each file carries
the environment it was measured in. A ratio is the median of the per-round ratios, not a ratio of medians.
Results are written after each case: what was measured survives a case that fails, and a run that is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from etfhead.experiment.environment import describe_environment

Row = dict[str, Any]

RESULTS = Path(__file__).parent / "results"


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median with the first and third quartile."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": low, "q3": high}


def take_turns(
    sides: dict[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 5,
    device: str = "cpu",
    label: str = "",
) -> dict[str, list[float]]:
    """Seconds of each side in each round, the order reversed every other round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    if device == "cuda":
        torch.cuda.synchronize()
    for round_ in tqdm(range(warmup + rounds), desc=label, leave=False, disable=None):
        order = list(sides) if round_ % 2 == 0 else list(reversed(sides))
        for name in order:
            start = time.perf_counter()
            sides[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_ >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def training_step(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    target: Tensor,
    *,
    autocast: torch.dtype | None = None,
) -> Callable[[], None]:
    """One forward, backward and AdamW update; forward and loss under autocast to a type, if one is given."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        narrow = torch.autocast(images.device.type, autocast) if autocast else contextlib.nullcontext()
        with narrow:
            value = loss(model(images), target)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def ratio(of: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """Quartiles of the per-round ratio."""
    return quartiles([a / b for a, b in zip(of, to, strict=True)])


def write(name: str, results: Sequence[Row], device: str, unfinished: Sequence[str] = ()) -> Path:
    """Store results beside the machine they were measured on, one file a benchmark and device kind.

    Args:
        name: The benchmark.
        results: Its rows.
        device: ``"cpu"`` or ``"cuda"``.
        unfinished: Cases without results: those that failed, and those still to come. They are named in the
            file, which then is no whole result.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}_{device}.json"
    content = {"metadata": describe_environment(), "results": results}
    if unfinished:
        content["unfinished"] = list(unfinished)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)
    if not unfinished:
        print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def case_by_case(
    cases: Mapping[str, Callable[[], Sequence[Row]]],
    *,
    show: Callable[[Sequence[Row]], str],
    keep: Callable[[Sequence[Row], Sequence[str]], object],
) -> list[Row]:
    """Measure one case after the other; print and keep what there is after each.

    Args:
        cases: What measures each, by name.
        show: Lines to print of a case's rows.
        keep: Called after each case with all rows so far and the names of cases without any.

    Returns:
        list[Row]: All rows.

    Raises:
        SystemExit: With status 1, once all others are measured, if a case failed.
    """
    results: list[Row] = []
    missing = list(cases)
    for name, measured in cases.items():
        try:
            rows = measured()
        except Exception:
            print(f"{name} failed:\n{traceback.format_exc(limit=-6)}", file=sys.stderr, flush=True)
        else:
            missing.remove(name)
            results += rows
            print(show(rows), flush=True)
        keep(results, missing)
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    if missing:
        raise SystemExit(f"failed: {'; '.join(missing)}")
    return results


def keep_in(name: str, device: str) -> Callable[[Sequence[Row], Sequence[str]], object]:
    """What writes the rows so far into a benchmark's file."""
    return lambda results, missing: write(name, results, device, missing)


def on_cuda(build: Callable[[], Callable[[], object]]) -> tuple[Callable[[], object], dict[str, int]]:
    """A side that is built here, after two steps, and the bytes it takes beyond what was there before.

    The allocator counts every tensor, so that neither other sides nor what earlier ones left behind matter.

    Returns:
        tuple: The side's step; ``peak_bytes`` during a step and ``held_bytes`` between steps.
    """
    gc.collect()
    before = torch.cuda.memory_allocated()
    step = build()
    for _ in range(2):  # optimizer state exists from the second step on
        step()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return step, {"peak_bytes": torch.cuda.max_memory_allocated() - before, "held_bytes": held}


def built(
    sides: Mapping[str, Callable[[], Callable[[], object]]], device: str
) -> tuple[dict[str, Callable[[], object]], dict[str, dict[str, int]]]:
    """Steps of all sides, and on CUDA the bytes of each (:func:`on_cuda`)."""
    if device != "cuda":
        return {name: build() for name, build in sides.items()}, {name: {} for name in sides}
    found = {name: on_cuda(build) for name, build in sides.items()}
    return {name: step for name, (step, _) in found.items()}, {name: own for name, (_, own) in found.items()}


def model_steps(
    name: str,
    measure: Callable[..., Sequence[Row]],
    show: Callable[[Sequence[Row]], str],
    cases: Mapping[str, Sequence[tuple[Any, ...]]],
    rounds: Mapping[str, int],
    *,
    description: str | None,
) -> None:
    """Command line of a benchmark of whole models' training steps; on a GPU under autocast to bfloat16.

    Args:
        name: Of the benchmark and its file.
        measure: Called with a case, rounds, device and ``autocast``.
        show: Lines to print of a case's rows.
        cases: Of each device: model, image size, batch and outputs.
        rounds: Of each device, by default.
        description: For ``--help``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, help="60, on a GPU 25")
    args = parser.parse_args()
    narrow = torch.bfloat16 if args.device == "cuda" else None
    chosen = args.rounds or rounds[args.device]
    measured = {
        f"{case[0]}, K={case[3]}": functools.partial(measure, *case, chosen, args.device, autocast=narrow)
        for case in cases[args.device]
    }
    case_by_case(measured, show=show, keep=keep_in(name, args.device))
