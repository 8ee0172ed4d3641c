"""A whole comparison: every arm with every seed into one folder, then the report."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from etfhead.errors import CheckpointError, DataError, Interrupted, TrainingError
from etfhead.experiment.checksums import SEAL, is_intact, seal, wrong_files
from etfhead.experiment.data import Splits, read_data
from etfhead.experiment.data.rng import preserved_rng
from etfhead.experiment.data.workers import WorkerLost, workers_ended
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
from etfhead.experiment.task import METRIC_NAMES, primary_metric
from etfhead.experiment.training.accelerator import make_accelerator
from etfhead.experiment.training.arms import resolve_arms
from etfhead.experiment.training.checkpoint import StateFile
from etfhead.experiment.training.dry_run import check_arms
from etfhead.experiment.training.engine import Trainer
from etfhead.experiment.training.fingerprint import differences, make_fingerprint
from etfhead.experiment.training.outcome import conclude
from etfhead.experiment.training.peers import lost_peers_told
from etfhead.experiment.training.progress import ProgressBar, say
from etfhead.experiment.training.session import Session
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
                    _run_one(recipe, arm, seed, splits=splits, out=out, stop=stop, title=title, guard=guard)
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


def _no_guard() -> None:
    """For the processes that do not write."""


def _run_one(
    recipe: Recipe,
    arm: str,
    seed: int,
    *,
    splits: Splits,
    out: Path,
    stop: StopRequest,
    title: str,
    guard: Callable[[], None],
) -> None:
    # A new one for each run: the loss scale of float16 training must not pass from arm to arm.
    from accelerate import Accelerator

    accelerator = Accelerator()
    folder = seed_folder(out, arm, seed)
    fingerprint = make_fingerprint(
        recipe, arm, seed, data_digest=splits.info["digest"], processes=accelerator.num_processes
    )
    states = StateFile(folder, fingerprint, guard=guard)
    complete, damaged = _is_complete(folder, fingerprint)
    if complete:
        if accelerator.is_main_process:
            states.previous.unlink(missing_ok=True)  # a run killed at its very end leaves it
            say(f"{title}: complete already")
        return
    state, notes = states.load()
    if state is not None and damaged:
        notes = [*(f"refused {reason}" for reason in damaged), *notes, "evaluates the checkpoint again"]
    if state is None and (damaged or (folder / "metrics.jsonl").exists()):
        what = "; ".join(damaged) or "epochs were finished"
        raise CheckpointError(
            f"{folder}: {what}, but no checkpoint is left; delete this folder to train the arm and seed from "
            "the start"
        )

    def tick() -> None:
        # Nothing is written yet, and several processes stop together at a training step.
        if stop.signum is not None and accelerator.num_processes == 1:
            raise Interrupted(stop.signum)

    resumed = state is not None
    try:
        session = Session.build(
            recipe, arm, seed, splits, accelerator, title=title, resumed=resumed, tick=tick
        )
    except WorkerLost as error:
        raise TrainingError(
            f"arm {arm!r}, seed {seed}: orient: {error}; lower workers or batch_size"
        ) from error
    classes: dict[str, Any] = {"num_classes": splits.num_classes, "class_counts": splits.class_counts}
    trainer = Trainer(recipe, arm, seed, session=session, states=states, stop=stop, **classes)
    if state is not None:
        trainer.resume(state)
        notes.append(f"continues from {trainer.where()}")
    elif session.align_time:
        notes.append(f"class vectors from the training images in {session.align_time:.1f} s")
    hidden = not accelerator.is_main_process
    for note in notes if not hidden else ():
        say(f"{title}: {note}")
    images = recipe.epochs * session.steps_per_epoch * session.share * accelerator.num_processes
    done = trainer.position.images
    with ProgressBar(title, epochs=recipe.epochs, images=images, done=done, hidden=hidden) as bar:
        try:
            trainer.fit(bar)
            result = conclude(trainer, splits, folder, fingerprint)
        except DataError as error:
            # Files are decoded when they are drawn, so an unreadable one can turn up hours into a run.
            raise DataError(f"arm {arm!r}, seed {seed}: {error}; {trainer.left()}") from error
        except WorkerLost as error:
            raise trainer.lost(error) from error
    if not hidden:
        say(f"{title}: {_summary(result, primary_metric(recipe))}")


def _summary(result: Mapping[str, Any], metric: str) -> str:
    last, best = result["last"], result["best"]
    key, name = f"test_{metric}", METRIC_NAMES[metric]
    return (
        f"test {name} {last[key]:.2f} % (last epoch), {best[key]:.2f} % (best epoch, "
        f"{best['epoch'] + 1}); {result['train_time']:.1f} s, {result['images_per_s']:.0f} images/s"
    )


def _is_complete(folder: Path, fingerprint: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether the arm and seed have finished, or which of their files must be made again."""
    path = folder / "result.json"
    try:
        result = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False, []
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        return False, [f"{path}: damaged ({error})"]
    if not isinstance(result, dict) or not is_intact(result):
        return False, [f"{path}: damaged (its checksum is wrong)"]
    if differs := differences(result.get("fingerprint") or {}, fingerprint):
        raise CheckpointError(f"{path}: of another run ({differs}); use another --out, or --overwrite")
    wrong = wrong_files(folder, result)
    return result.get("complete") is True and not wrong, wrong


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
