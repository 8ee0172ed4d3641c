"""Read a run folder as it is on disk: finished, interrupted or damaged in places."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etfhead.experiment.checksums import SEAL, is_intact, wrong_files
from etfhead.experiment.files import parse_json
from etfhead.experiment.schema.yaml_lines import parse_yaml

__all__ = ["NOT_STARTED", "RunRecords", "SeedRecord", "number", "read_json", "read_recipe", "read_run"]

NOT_STARTED = "not started"


@dataclass(frozen=True)
class SeedRecord:
    """One arm trained with one seed.

    Args:
        arm: Name of the arm.
        seed: The seed.
        history: Rows of ``metrics.jsonl`` by ascending epoch (0-based), damaged lines left out.
        result: ``result.json``, or ``None`` while the training is not finished.
        state: ``finished``, ``not started``, or how far it came.
    """

    arm: str
    seed: int
    history: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None
    state: str

    @property
    def finished(self) -> bool:
        """Whether training ended and the test set was evaluated."""
        return self.result is not None

    def measured(self, key: str, *, initial: bool = False) -> dict[int, float]:
        """A figure after each epoch that has it, epochs counted from 1.

        Args:
            key: A key of the rows of ``metrics.jsonl``.
            initial: Also give the untrained model's figure, as epoch 0.
        """
        rows: dict[int, Mapping[str, Any]] = {row["epoch"] + 1: row for row in self.history}
        untrained = (self.result or {}).get("initial")
        if initial and isinstance(untrained, Mapping):
            rows = {0: untrained, **rows}
        return {epoch: value for epoch, row in rows.items() if (value := number(row, key)) is not None}


@dataclass(frozen=True)
class RunRecords:
    """Everything a report is made of. ``runs`` is keyed by arm, then seed, in the recipe's order."""

    folder: Path
    recipe: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    runs: dict[str, dict[int, SeedRecord]]
    notes: tuple[str, ...]

    def finished(self, arm: str) -> dict[int, SeedRecord]:
        """The finished seeds of an arm."""
        return {seed: run for seed, run in self.runs[arm].items() if run.finished}


def number(mapping: Mapping[str, Any] | None, key: str) -> float | None:
    """A finite number from parsed JSON, or ``None`` when it is absent, null or not finite.

    >>> number({"loss": float("nan"), "top1": 97}, "top1"), number({"loss": float("nan")}, "loss")
    (97.0, None)
    """
    value = (mapping or {}).get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        wide = float(value)
    except OverflowError:  # a recipe's whole number, as large as somebody wrote it
        return None
    return wide if math.isfinite(wide) else None


def read_run(run_dir: str | Path) -> RunRecords:
    """Read a run folder, tolerating unfinished and partly damaged runs.

    What cannot be read is left out and named in ``notes``; only a folder without a usable ``recipe.yaml``
    is refused.

    Args:
        run_dir: A folder written by ``etfhead run``.

    Raises:
        ValueError: ``run_dir`` is no run folder, or its ``recipe.yaml`` is damaged.
    """
    folder = Path(run_dir)
    recipe = read_recipe(folder)
    notes: list[str] = []
    runs = {
        arm: {seed: _read_seed(folder, arm, seed, recipe, notes) for seed in recipe["seeds"]}
        for arm in recipe["arms"]
    }
    notes.extend(_strangers(folder, runs))
    return RunRecords(
        folder=folder,
        recipe=recipe,
        environment=read_json(folder, "env.json", notes) or {},
        data=read_json(folder, "data.json", notes) or {},
        runs=runs,
        notes=tuple(notes),
    )


def read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe of a run folder as its YAML holds it.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        what = "has no recipe.yaml" if folder.is_dir() else "does not exist"
        raise ValueError(f"run_dir: {str(folder)!r} {what}; expected a folder written by `etfhead run`")
    try:
        recipe = parse_yaml(path.read_text(encoding="utf-8"), str(path))[0]
    except ValueError as error:
        where = f"{path}: " if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"{where}{error}; restore it from the recipe of the run") from None
    wrong = _first_fault(recipe)
    if wrong:
        raise ValueError(f"{path}: {wrong}; restore it from the recipe of the run")
    return recipe


def _first_fault(recipe: Any) -> str | None:
    if not isinstance(recipe, dict):
        return f"expected a mapping, got {type(recipe).__name__}"
    arms, seeds = recipe.get("arms"), recipe.get("seeds")
    if not isinstance(arms, dict) or not arms or not all(isinstance(name, str) for name in arms):
        return "expected 'arms' to be a mapping of names to arms"
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        return "expected 'seeds' to be a list of whole numbers"
    settings = recipe.get("settings")
    for name in (*arms, *(settings if isinstance(settings, dict) else ())):
        if str(name) in ("", ".", "..") or set(str(name)) & set("/\\\0"):
            return f"expected names of folders for arms and settings, got {name!r}"
    if recipe.get("baseline") not in arms:
        return f"expected 'baseline' to be one of the arms, got {recipe.get('baseline')!r}"
    return None


def _read_seed(folder: Path, arm: str, seed: int, recipe: Mapping[str, Any], notes: list[str]) -> SeedRecord:
    place = f"arms/{arm}/seed{seed}"
    history = _read_history(folder, f"{place}/metrics.jsonl", notes)
    result = read_json(folder, f"{place}/result.json", notes)
    if result is not None and not all(isinstance(result.get(key), dict) for key in ("last", "best")):
        notes.append(f"{place}/result.json: no test figures in it; the run counts as unfinished")
        result = None
    if result is not None and result.get("complete") is not True:
        result = None
    if result is not None:
        wrong = wrong_files(folder / place, result, ("metrics.jsonl",))
        notes += [f"{reason}; etfhead run ... --resume restores it" for reason in wrong]
    if result is not None:
        state = "finished"
    elif history:
        state = f"stopped after epoch {history[-1]['epoch'] + 1} of {recipe.get('epochs', '?')}"
    else:
        state = NOT_STARTED if not (folder / place).is_dir() else "stopped in the first epoch"
    return SeedRecord(arm=arm, seed=seed, history=history, result=result, state=state)


def read_json(folder: Path, name: str, notes: list[str]) -> dict[str, Any] | None:
    """A JSON object, or ``None``; one that cannot be read is named in ``notes``."""
    try:
        value = parse_json((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        notes.append(f"{name}: damaged or unreadable; left out")
        return None
    if not isinstance(value, dict):
        notes.append(f"{name}: expected a JSON object; left out")
        return None
    if not is_intact(value):
        notes.append(f"{name}: damaged (its checksum is wrong); left out")
        return None
    value.pop(SEAL, None)
    return value


def _read_history(folder: Path, name: str, notes: list[str]) -> tuple[dict[str, Any], ...]:
    try:
        lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    except OSError:
        notes.append(f"{name}: unreadable; left out")
        return ()
    rows: dict[int, dict[str, Any]] = {}
    for count, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            epoch = row["epoch"]
        except (ValueError, TypeError, KeyError):
            epoch = None
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
            where = "the last line" if count == len(lines) else f"line {count}"
            notes.append(f"{name}: {where} is damaged and left out")
            continue
        rows[epoch] = row  # a resumed run may write an epoch again: the later line is the one it kept
    return tuple(rows[epoch] for epoch in sorted(rows))


def _strangers(folder: Path, runs: Mapping[str, Mapping[int, SeedRecord]]) -> list[str]:
    known = {f"{arm}/seed{seed}" for arm, seeds in runs.items() for seed in seeds}
    found = {path.parent for path in (folder / "arms").glob("*/seed*/metrics.jsonl")}
    names = sorted(f"{path.parent.name}/{path.name}" for path in found)
    return [f"arms/{name}: not part of recipe.yaml; left out" for name in names if name not in known]
