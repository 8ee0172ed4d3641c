"""What it costs to be able to go on after a crash: checkpoints as a share of an epoch, and the way back.

The recipe itself is trained, arm by arm, and its own methods are timed. Of an epoch (training, validation,
collapse figures, checkpoint) all counts as checkpointing that the end of the epoch does beside measuring:
weights of a new best epoch copied, everything gathered and checked for NaN, ``state.pt`` written with its
checksums and flushed to disk, ``metrics.jsonl`` the same. Randomness is seeded at every step, so that a
resumed run ends with the weights of an uninterrupted one: that is counted by itself. Each arm is stopped dead
after some epochs and resumed, and then trained to its end.

python -m benchmarks.checkpoint_overhead [--device cuda] [--stop-after 3] [key=value ...]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.common import Row, case_by_case, keep_in, quartiles
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.run_folder import seed_folder
from etfhead.experiment.runner import run
from etfhead.experiment.schema import load_recipe
from etfhead.experiment.training import engine
from etfhead.experiment.training.checkpoint import STATE, StateFile
from etfhead.experiment.training.engine import Trainer

RECIPE = "fashion_mnist"
_WATCHED = (
    (Trainer, "_train_epoch"),
    (Trainer, "_collapse"),
    (Trainer, "_finish_epoch"),
    (Trainer, "resume"),
    (StateFile, "load"),
    (engine, "seed_step"),
    (engine, "update_weights"),
)


@dataclass(frozen=True)
class Span:
    """One call: its name, and the clocks (wall, CPU of the process) when it began and ended."""

    name: str
    began: tuple[float, float]
    ended: tuple[float, float]

    def lasted(self, clock: int) -> float:
        """Seconds by one of the two clocks."""
        return self.ended[clock] - self.began[clock]


class _StoppedError(Exception):
    """Stands for a kill: nothing of the run gets a chance to tidy up."""


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


@contextlib.contextmanager
def watched(stop_after: int | None = None) -> Iterator[list[Span]]:
    """Time the calls of a run; ``stop_after`` so many epochs it breaks off.

    Yields:
        list[Span]: Grows as calls end; those that raise are left out.
    """
    spans: list[Span] = []

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            began = _clocks()
            answer = call(*args, **kwargs)
            spans.append(Span(name, began, _clocks()))
            if name == "_finish_epoch" and sum(span.name == name for span in spans) == stop_after:
                raise _StoppedError
            return answer

        return wrapper

    with contextlib.ExitStack() as patches:
        for owner, name in _WATCHED:
            patches.enter_context(mock.patch.object(owner, name, timed(name, getattr(owner, name))))
        yield spans


def epochs_of(spans: Sequence[Span]) -> list[dict[str, float]]:
    """Seconds of every whole epoch, its checkpoint and the seeds of its steps, by the wall and by the CPU."""
    found = []
    starts = [span for span in spans if span.name == "_train_epoch"]
    ends = [span for span in spans if span.name == "_finish_epoch"]
    for start, end in zip(starts, ends, strict=True):
        inside = [span for span in spans if start.began <= span.began < end.ended]
        seeds = [span for span in inside if span.name == "seed_step"]
        figures = [span for span in inside if span.name == "_collapse"]
        row = {}
        for clock, suffix in enumerate(("", "_cpu")):
            row[f"epoch{suffix}"] = end.ended[clock] - start.began[clock]
            row[f"training{suffix}"] = start.lasted(clock)
            row[f"seeding{suffix}"] = sum(span.lasted(clock) for span in seeds)
            row[f"checkpoint{suffix}"] = end.lasted(clock) - sum(span.lasted(clock) for span in figures)
        found.append(row)
    return found


def measure(recipe: Recipe, arm: str, folder: Path, stop_after: int) -> dict[str, Any]:
    """Train one arm with the first seed, broken off once and resumed.

    Args:
        recipe: The comparison; only this arm of it is trained.
        arm: Its name.
        folder: An empty folder.
        stop_after: Epochs before the break.

    Returns:
        dict: Epoch by epoch, the shares over epochs, and the seconds of the way back.
    """
    alone = {"arms": {arm: recipe.arms[arm]}, "baseline": arm, "seeds": recipe.seeds[:1]}
    recipe = dataclasses.replace(recipe, **alone)
    with watched(stop_after) as before, contextlib.suppress(_StoppedError):
        run(recipe, folder)
    with watched() as after:
        began = time.perf_counter()
        run(recipe, folder, resume=True)
    place = seed_folder(folder, arm, recipe.seeds[0])
    lines = (place / "metrics.jsonl").read_text().splitlines()
    tops = [json.loads(line)["val_top1"] for line in lines]
    epochs: list[dict[str, Any]] = [*epochs_of(before), *epochs_of(after)]
    for count, row in enumerate(epochs):
        row["new_best"] = tops[count] > max(tops[:count], default=-1.0)
    first_step = next(span.ended[0] for span in after if span.name == "update_weights")
    once = {span.name: span.lasted(0) for span in after if span.name in ("load", "resume")}
    return {
        "arm": arm,
        "model": recipe.model,
        "state_bytes": (place / STATE).stat().st_size,
        "share": quartiles([row["checkpoint"] / row["epoch"] for row in epochs]),
        "share_cpu": quartiles([row["checkpoint_cpu"] / row["epoch_cpu"] for row in epochs]),
        "share_with_seeding": quartiles(
            [(row["checkpoint"] + row["seeding"]) / row["epoch"] for row in epochs]
        ),
        "largest_share": max(row["checkpoint"] / row["epoch"] for row in epochs),
        "checkpoint_seconds": quartiles([row["checkpoint"] for row in epochs]),
        "new_best_seconds": max(row["checkpoint"] for row in epochs if row["new_best"]),
        "epoch_seconds": quartiles([row["epoch"] for row in epochs]),
        "resume": {
            "read_and_verify": once["load"],
            "restore": once["resume"],
            "start_to_first_step": first_step - began,
        },
        "epochs": epochs,
    }


def _measured(recipe: Recipe, arm: str, stop_after: int) -> list[Row]:
    # Not where temporary files go: that may be memory, and flushing to it costs nothing.
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="checkpoint-overhead-") as folder:
        return [measure(recipe, arm, Path(folder) / "run", stop_after)]


def show(rows: Sequence[Row]) -> str:
    """A line for each arm."""
    lines = []
    for row in rows:
        percent = {key: 100.0 * row["share"][key] for key in ("median", "q1", "q3")}
        lines.append(
            f"{row['arm']:<12}{row['state_bytes'] / 1e6:5.1f} MB"
            f" {1e3 * row['checkpoint_seconds']['median']:7.1f} ms"
            f"  {percent['median']:.3f} % of an epoch [{percent['q1']:.3f}, {percent['q3']:.3f}],"
            f" at most {100 * row['largest_share']:.3f} %,"
            f" with seeds {100 * row['share_with_seeding']['median']:.3f} %;"
            f" read and verified in {1e3 * row['resume']['read_and_verify']:.0f} ms"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help=f"changes of {RECIPE}, such as data_root=FOLDER"
    )
    parser.add_argument("--stop-after", type=int, default=3, help="epochs before the break")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--arms", nargs="+", help="only these of the recipe's arms")
    args = parser.parse_args()
    recipe = load_recipe(RECIPE, [f"cpu={str(args.device == 'cpu').lower()}", *args.changes])
    if not 0 < args.stop_after < recipe.epochs:
        parser.error(f"--stop-after: expected 1 to {recipe.epochs - 1} of {recipe.epochs} epochs")
    if unknown := set(args.arms or ()) - set(recipe.arms):
        parser.error(f"--arms: expected some of {', '.join(recipe.arms)}, got {', '.join(sorted(unknown))}")
    cases = {
        arm: functools.partial(_measured, recipe, arm, args.stop_after) for arm in args.arms or recipe.arms
    }
    case_by_case(cases, show=show, keep=keep_in("checkpoint_overhead", args.device))


if __name__ == "__main__":
    main()
