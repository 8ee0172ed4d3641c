"""A study: the same comparison under several settings, one run folder each, summarised as one.

``OUT/recipe.yaml`` names the settings (``settings: {name: {field: value}}``), and ``OUT/settings/<name>/`` is
an ordinary run folder. ``OUT/summary.json`` is what :func:`summarize_study` returns:

* ``schema``: 1. ``name``, ``description``, ``baseline``, ``confidence``; ``primary`` (null where the settings
  have different ones); ``finished`` and ``expected`` (numbers of trainings).
* ``axis``: ``field`` and ``values`` by setting if the settings differ in one number alone, else null.
* ``settings.<setting>``: ``changes`` (what it changes in the recipe), ``state`` in words, and ``summary``:
  that of its run folder (:mod:`~etfhead.experiment.report.summary`), null while there is none. It lacks
  ``runs`` and what is kept epoch by epoch.
* ``arms.<arm>``: ``settings`` (the arm's options), ``kind``, and for contenders ``counts``: in how many
  settings each outcome was found, at the ``best`` and at the ``last`` epoch.
* ``runs``: the flat rows of ``summary.csv``, with a column ``setting``. ``unfinished``, ``notes``,
  ``verdict``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etfhead.experiment.report import study_verdict
from etfhead.experiment.report.records import (
    NOT_STARTED,
    RunRecords,
    SeedRecord,
    number,
    read_json,
    read_recipe,
    read_run,
)
from etfhead.experiment.report.stats import ALPHA, spread_by_seed
from etfhead.experiment.report.study_figures import STUDY_FIGURES
from etfhead.experiment.report.summary import arm_kind, summarize_records
from etfhead.experiment.report.verdict import disagreements

__all__ = ["SETTINGS", "StudyRecords", "is_study", "read_study", "summarize_study", "summarize_study_records"]

SETTINGS = "settings"
_EPOCH_BY_EPOCH = "_by_epoch"


@dataclass(frozen=True)
class StudyRecords:
    """Everything a study's report is made of; a setting without a usable run folder is ``None``."""

    folder: Path
    recipe: dict[str, Any]
    environment: dict[str, Any]
    changes: dict[str, dict[str, Any]]
    runs: dict[str, RunRecords | None]
    notes: tuple[str, ...]


def is_study(out: str | Path) -> bool:
    """Whether a folder is that of a study: its recipe has settings."""
    try:
        return bool(read_recipe(Path(out)).get(SETTINGS))
    except ValueError:
        return False


def read_study(out: str | Path) -> StudyRecords:
    """Read a study's folder, tolerating settings that are unfinished, missing or damaged.

    Args:
        out: A folder written by ``etfhead run`` from a recipe with settings.

    Raises:
        ValueError: ``out`` is no such folder, or its ``recipe.yaml`` is damaged.
    """
    folder = Path(out)
    recipe = read_recipe(folder)
    given = recipe.get(SETTINGS)
    if not isinstance(given, dict) or not given:
        raise ValueError(
            f"out: {str(folder)!r} is the folder of one run: its recipe.yaml has no settings, as a study's "
            "has; use write_report or summarize"
        )
    notes: list[str] = []
    changes = {str(name): dict(fields) if isinstance(fields, dict) else {} for name, fields in given.items()}
    runs = {name: _read_setting(folder, name, notes) for name in changes}
    strangers = sorted(path.parent.name for path in (folder / SETTINGS).glob("*/recipe.yaml"))
    notes += [
        f"{SETTINGS}/{name}: not part of recipe.yaml; left out" for name in strangers if name not in runs
    ]
    environment = read_json(folder, "env.json", notes) or {}
    return StudyRecords(folder, recipe, environment, changes, runs, tuple(notes))


def summarize_study(out: str | Path, *, epochs: bool = False) -> dict[str, Any]:
    """Summarise a study, whether or not all its settings have finished.

    Args:
        out: A folder written by ``etfhead run`` from a recipe with settings.
        epochs: Keep what the settings' summaries hold epoch by epoch.

    Returns:
        A JSON-able dictionary; the keys are listed at the top of this module.

    Raises:
        ValueError: ``out`` is no such folder, or its ``recipe.yaml`` is damaged.
    """
    return summarize_study_records(read_study(out), epochs=epochs)


def summarize_study_records(study: StudyRecords, *, epochs: bool = False) -> dict[str, Any]:
    """Summarise what :func:`read_study` has already read."""
    recipe = study.recipe
    whole = {name: None if run is None else summarize_records(run) for name, run in study.runs.items()}
    rows = [
        {"setting": name, **row}
        for name, one in whole.items()
        for row in (_waiting(recipe) if one is None else one["runs"])
    ]
    primaries = {one["primary"] for one in whole.values() if one is not None}
    summary: dict[str, Any] = {
        "schema": 1,
        "name": str(recipe.get("name") or study.folder.resolve().name),
        "description": str(recipe.get("description") or ""),
        "baseline": recipe["baseline"],
        "primary": primaries.pop() if len(primaries) == 1 else None,
        "confidence": 1 - ALPHA,
        "seeds": list(recipe["seeds"]),
        "finished": sum(row["state"] == "finished" for row in rows),
        "expected": len(rows),
        "axis": _axis(study),
        "settings": {
            name: {
                "changes": study.changes[name],
                "state": _state(one),
                "summary": None if one is None else _compact(one, study.runs[name], epochs),
            }
            for name, one in whole.items()
        },
        "arms": {},
        "runs": rows,
        "unfinished": [
            {key: row[key] for key in ("setting", "arm", "seed", "state")}
            for row in rows
            if row["state"] != "finished"
        ],
        "notes": [*study.notes, *_notes(whole)],
    }
    for arm, options in recipe["arms"].items():
        settings = {key: value for key, value in (options or {}).items() if value is not None}
        entry: dict[str, Any] = {"settings": settings, "kind": arm_kind(settings)}
        if arm != recipe["baseline"]:
            entry["counts"] = study_verdict.count_outcomes(summary, arm)
        summary["arms"][arm] = entry
    summary["verdict"] = study_verdict.study_sentence(summary)
    return summary


def _read_setting(folder: Path, name: str, notes: list[str]) -> RunRecords | None:
    place = folder / SETTINGS / name
    if not (place / "recipe.yaml").is_file():
        return None
    try:
        return read_run(place)
    except ValueError:
        notes.append(f"{SETTINGS}/{name}/recipe.yaml: damaged; the setting is left out")
        return None


def _waiting(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "seed": seed, "state": NOT_STARTED} for arm in recipe["arms"] for seed in recipe["seeds"]
    ]


def _state(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return NOT_STARTED
    if one["finished"] == one["expected"]:
        return "finished"
    return f"{one['finished']} of {one['expected']} trainings finished"


def _compact(one: Mapping[str, Any], records: RunRecords | None, epochs: bool) -> dict[str, Any]:
    assert records is not None  # noqa: S101 - a summary was made of it
    kept = {key: value for key, value in one.items() if key != "runs"}
    kept["arms"] = {
        arm: {
            key: _with_extra(value, records.finished(arm)) if key == "figures" else value
            for key, value in entry.items()
            if epochs or not key.endswith(_EPOCH_BY_EPOCH)
        }
        for arm, entry in one["arms"].items()
    }
    return kept


def _with_extra(figures: Mapping[str, Any], seeds: Mapping[int, SeedRecord]) -> dict[str, Any]:
    """The figures that a study draws and a summary may lack: as they were at a training's last measuring."""
    extra = {}
    for key in (key for figure in STUDY_FIGURES for key in figure.keys):
        if figures.get(key) is None:
            values = {seed: value for seed, run in seeds.items() if (value := _last(run, key)) is not None}
            if values:
                extra[key] = spread_by_seed(values)
    return {**figures, **extra}


def _last(run: SeedRecord, key: str) -> float | None:
    measured = run.measured(key)
    if measured:
        return measured[max(measured)]
    result = run.result or {}
    return number(result.get("last"), f"test_{key}") if "last" in result else None


def _axis(study: StudyRecords) -> dict[str, Any] | None:
    """The one field in which the settings differ, if it is a number in each and never twice the same."""
    changed = {field for fields in study.changes.values() for field in fields}
    values = {
        field: [fields.get(field, study.recipe.get(field)) for fields in study.changes.values()]
        for field in changed
    }
    varying = [field for field, found in values.items() if any(value != found[0] for value in found)]
    if len(varying) != 1:
        return None
    numbers = [number({"value": value}, "value") for value in values[varying[0]]]
    if None in numbers or len(set(numbers)) < len(numbers) or not all(map(math.isfinite, numbers)):  # type: ignore[arg-type]
        return None
    return {"field": varying[0], "values": dict(zip(study.changes, numbers, strict=True))}


def _notes(whole: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """The settings' own notes, once each, with the settings they are from.

    Verdicts that depend on the epoch are left out: a study shows both epochs side by side.
    """
    found: dict[str, list[str]] = {}
    for name, one in whole.items():
        by_epoch = [] if one is None else disagreements(one)
        for note in [] if one is None else [note for note in one["notes"] if note not in by_epoch]:
            found.setdefault(note, []).append(name)
    started = sum(one is not None for one in whole.values())
    return [note if len(names) == started else f"{', '.join(names)}: {note}" for note, names in found.items()]
