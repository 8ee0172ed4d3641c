"""A whole comparison: every arm with every seed into one folder, then the report."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from etfhead.errors import Interrupted
from etfhead.experiment.advice import batch_note, recipe_notes
from etfhead.experiment.checksums import SEAL, seal
from etfhead.experiment.data import read_data
from etfhead.experiment.data.rng import preserved_rng
from etfhead.experiment.data.workers import workers_ended
from etfhead.experiment.environment import describe_environment
from etfhead.experiment.files import parse_json, write_json, write_text
from etfhead.experiment.folder_lock import FolderLock, refuse_locked
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.run_folder import (
    ENVIRONMENT,
    check_folder,
    check_same_data,
    clear_folder,
    damaged_facts,
    is_run_folder,
    seed_folder,
)
from etfhead.experiment.training.accelerator import make_accelerator
from etfhead.experiment.training.arm_run import run_arm
from etfhead.experiment.training.arms import resolve_arms
from etfhead.experiment.training.dry_run import check_arms
from etfhead.experiment.training.peers import lost_peers_told
from etfhead.experiment.training.progress import say
from etfhead.experiment.training.signals import StopRequest

__all__ = ["check_run", "run", "start_folder"]


def run(recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train every arm with every seed, seed by seed, and write the report.

    A recipe with settings is a study: see :func:`~etfhead.experiment.study.run_study`.

    Everything that can be refused is refused before the first step and before a file changes. Under
    ``accelerate launch`` or ``torchrun`` the processes share each batch; the first one writes.

    Args:
        recipe: The comparison.
        out: Run folder; see the design of the files in :mod:`~etfhead.experiment.run_folder`.
        resume: Continue the run in ``out``: finished arms stay, an interrupted one goes on from its
            checkpoint to the numbers of an uninterrupted run, new arms and seeds are added.
        overwrite: Delete the run in ``out`` first.

    Returns:
        Path: ``out``.

    Raises:
        ValueError: If folder, recipe, data or an arm does not allow the run, or another process runs there.
        CheckpointError: If ``resume`` finds no usable checkpoint, or another run's.
        TrainingError: If numbers stop being finite, or a loading process dies.
        ConnectionError: If another process of this run has gone.
        Interrupted: If SIGINT, SIGTERM or SIGHUP came; the checkpoint is written.
        OSError: If the folder cannot be written.
    """
    from etfhead.experiment.report import write_report

    if recipe.settings:
        from etfhead.experiment.study import run_study

        return run_study(recipe, out, resume=resume, overwrite=overwrite)
    out, recipe = Path(out), resolve_arms(recipe)
    with preserved_rng(), make_accelerator(recipe) as accelerator, ExitStack() as held:
        held.enter_context(lost_peers_told(accelerator.num_processes))
        if accelerator.is_main_process:
            refuse_locked(out)
        check_folder(out, recipe, resume=resume, overwrite=overwrite)
        with accelerator.local_main_process_first():  # one process of a machine downloads
            data = read_data(recipe)
        facts = data.info()
        if resume:
            check_same_data(out, facts["digest"])
        check_arms(recipe, data.splits(recipe.seeds[0]))
        guard: Callable[[], None] = _no_guard
        if accelerator.is_main_process:
            guard = held.enter_context(FolderLock(out)).check
            check_folder(out, recipe, resume=resume, overwrite=overwrite)  # a run may have come and gone
            _prepare_folder(out, recipe, facts, overwrite=overwrite)
            if data.how_split:
                say(f"{recipe.dataset}: {data.how_split}")
            for note in _notes(recipe, facts):
                say(f"note: {note}")
        accelerator.wait_for_everyone()
        with StopRequest() as stop:
            jobs = [(arm, seed) for seed in recipe.seeds for arm in recipe.arms]
            for count, (arm, seed) in enumerate(jobs, start=1):
                if stop.signum is not None:
                    raise Interrupted(stop.signum)
                title = f"[{count}/{len(jobs)}] {arm} seed {seed}"
                splits = data.splits(seed)
                guard()
                with workers_ended():
                    folder = seed_folder(out, arm, seed)
                    run_arm(recipe, arm, seed, splits, folder, stop=stop, title=title, guard=guard)
                if accelerator.device.type == "cuda":  # or this run's memory would count for the next one
                    gc.collect()
                    torch.cuda.empty_cache()
        if accelerator.is_main_process:
            guard()
            write_report(out)
        accelerator.wait_for_everyone()
    return out


def check_run(recipe: Recipe) -> None:
    """Read the data and build every arm, as :func:`run` will; nothing is written.

    Raises:
        ValueError: If data or an arm does not allow the run.
    """
    recipe = resolve_arms(recipe)
    check_arms(recipe, read_data(recipe).splits(recipe.seeds[0]))


def _notes(recipe: Recipe, facts: Mapping[str, Any]) -> list[str]:
    note = batch_note(recipe.batch_size, facts["sizes"]["train"])
    return [*recipe_notes(recipe), *([] if note is None else [note])]


def _no_guard() -> None:
    """For the processes that do not write."""


def _prepare_folder(out: Path, recipe: Recipe, facts: Mapping[str, Any], *, overwrite: bool) -> None:
    start_folder(out, recipe, overwrite=overwrite)
    write_json(out / "data.json", seal(facts))


def start_folder(out: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Write what every folder of a run begins with: its environment and its recipe."""
    from etfhead.experiment.schema import dump_recipe

    if overwrite and is_run_folder(out):
        clear_folder(out)
    damaged = damaged_facts(out)
    for path in damaged:
        say(f"{path}: damaged; written anew")
    # env.json comes first: it is what makes a folder a run's.
    known = is_run_folder(out) and out / ENVIRONMENT not in damaged
    earlier = parse_json((out / ENVIRONMENT).read_text(encoding="utf-8")) if known else None
    environment = describe_environment()
    if earlier is not None:
        earlier.pop(SEAL, None)
        environment["earlier"] = [*earlier.pop("earlier", []), earlier]
    write_json(out / ENVIRONMENT, seal(environment))
    write_text(out / "recipe.yaml", dump_recipe(recipe))
