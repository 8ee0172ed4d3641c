"""How every benchmark here measures: warm-up, interleaved repeats, median and quartiles, recorded machine.

The contract: both sides run in one process and take turns, so that a slow minute of the machine hits both;
the first rounds are thrown away; a CUDA device is synchronised inside the timed region; each file carries
the environment it was measured in. A ratio is the median of the per-round ratios, not a ratio of medians.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from etfhead.experiment.environment import describe_environment

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
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], images: Tensor, target: Tensor
) -> Callable[[], None]:
    """One forward, backward and AdamW update."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        loss(model(images), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def ratio(of: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """Quartiles of the per-round ratio."""
    return quartiles([a / b for a, b in zip(of, to, strict=True)])


def write(name: str, results: list[dict[str, Any]], device: str) -> Path:
    """Store results beside the machine they were measured on, one file a benchmark and device kind."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}_{device}.json"
    path.write_text(json.dumps({"metadata": describe_environment(), "results": results}, indent=2) + "\n")
    print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path
