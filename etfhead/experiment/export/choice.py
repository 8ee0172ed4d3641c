"""Which arm, seed and weights of a run are meant: those the user names, else the best on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from etfhead.experiment.report.records import RunRecords, SeedRecord, number
from etfhead.experiment.report.score import score_of_recipe
from etfhead.experiment.suggest import did_you_mean

__all__ = ["WEIGHTS", "Choice", "Weights", "rank_models"]

Weights = Literal["best", "last"]
WEIGHTS: tuple[Weights, ...] = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One trained model of a run.

    Args:
        arm: Name of the arm.
        seed: Its seed.
        weights: ``"best"`` (epoch of the highest validation metric) or ``"last"``.
        epoch: Epoch of these weights, counted from 1.
        validation: Their validation metric in percent; None if it was not recorded.
        metric: What that metric is called.
        reason: Why this arm and seed; empty when the user named them.
    """

    arm: str
    seed: int
    weights: Weights
    epoch: int
    validation: float | None
    metric: str
    reason: str = ""

    def __str__(self) -> str:
        """In one line, for people."""
        measured = "" if self.validation is None else f", validation {self.metric} {self.validation:.2f} %"
        which = "best" if self.weights == "best" else "last"
        return f"{self.arm}, seed {self.seed}, {which} epoch ({self.epoch}){measured}"


def rank_models(
    records: RunRecords, *, arm: str | None = None, seed: int | None = None, weights: Weights = "best"
) -> list[Choice]:
    """The finished models of a run that fit the arguments, one an arm, the best first.

    Arms are ordered by their validation metric, averaged over their finished seeds; of an arm's seeds the one
    with the highest is taken. The test part has no say. Ties go to the recipe's order.

    Args:
        records: The run, as :func:`~etfhead.experiment.report.records.read_run` gives it.
        arm: Only this arm.
        seed: Only this seed.
        weights: Whose validation metric counts: the best epoch's or the last one's.

    Raises:
        ValueError: If an arm or seed does not exist, or nothing that fits has finished.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r}: expected 'best' or 'last'")
    if settings := records.recipe.get("settings"):
        folder = records.folder / "settings"
        raise ValueError(
            f"{records.folder} holds a run for each of its settings; name one of them: "
            + ", ".join(str(folder / str(name)) for name in settings)
        )
    arms = _known_arms(records, arm)
    if seed is not None and seed not in records.recipe["seeds"]:
        seeds = ", ".join(map(str, records.recipe["seeds"]))
        raise ValueError(f"seed {seed}: the run has seeds {seeds}")
    found = []
    for name in arms:
        done = records.finished(name)
        if seed is not None:
            done = {key: run for key, run in done.items() if key == seed}
        if done:
            found.append(_best_seed(records, name, done, weights))
    if not found:
        raise ValueError(_nothing(records, arms, seed))
    found.sort(key=lambda entry: -entry[0])
    metric = score_of_recipe(records.recipe).name
    ranked = []
    for place, (_, choice) in enumerate(found, start=1):
        why = []
        if arm is None and len(found) > 1:
            rank = "highest" if place == 1 else f"number {place} by"
            why.append(f"{rank} mean validation {metric} of {len(found)} arms")
        count = len(records.finished(choice.arm))
        if seed is None and count > 1:
            why.append(f"the highest of its {count} seeds")
        ranked.append(replace(choice, reason=", ".join(why)))
    return ranked


def _known_arms(records: RunRecords, arm: str | None) -> list[str]:
    if arm is None:
        return list(records.runs)
    if arm not in records.runs:
        names = ", ".join(records.runs)
        raise ValueError(f"arm {arm!r}: the run has {names}{did_you_mean(arm, records.runs)}")
    return [arm]


def _nothing(records: RunRecords, arms: list[str], seed: int | None) -> str:
    states = {
        f"{name} seed {key}: {run.state}"
        for name in arms
        for key, run in records.runs[name].items()
        if seed in (None, key)
    }
    return (
        f"{records.folder}: nothing that fits has finished ({'; '.join(sorted(states))}); "
        "finish it with: etfhead run ... --resume"
    )


def _best_seed(
    records: RunRecords, arm: str, done: Mapping[int, SeedRecord], weights: Weights
) -> tuple[float, Choice]:
    """Mean validation metric of the arm, and its best seed."""
    score = score_of_recipe(records.recipe)
    epochs = {seed: _epoch(run, weights) for seed, run in done.items()}
    measured = {seed: _at(run, score.val, epochs[seed]) for seed, run in done.items()}
    values = [value for value in measured.values() if value is not None]
    mean = sum(values) / len(values) if values else float("-inf")

    def height(seed: int) -> float:
        value = measured[seed]
        return float("-inf") if value is None else value

    seed = max(done, key=height)
    choice = Choice(
        arm=arm,
        seed=seed,
        weights=weights,
        epoch=epochs[seed] + 1,
        validation=measured[seed],
        metric=score.name,
    )
    return mean, choice


def _epoch(run: SeedRecord, weights: Weights) -> int:
    entry: Any = (run.result or {}).get(weights)
    epoch = number(entry, "epoch")
    if epoch is None:
        raise ValueError(
            f"result.json of arm {run.arm!r}, seed {run.seed} does not say which epoch its {weights} weights "
            "are of; it is damaged: restore it, or delete it and evaluate again with etfhead run ... --resume"
        )
    return int(epoch)


def _at(run: SeedRecord, key: str, epoch: int) -> float | None:
    return next((number(row, key) for row in run.history if row["epoch"] == epoch), None)
