"""One arm with one seed: from the start or its checkpoint to the figures of its last and best weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etfhead.errors import CheckpointError, DataError, Interrupted, TrainingError
from etfhead.experiment.checksums import is_intact, wrong_files
from etfhead.experiment.data import Splits
from etfhead.experiment.data.workers import WorkerLost
from etfhead.experiment.files import parse_json
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.task import METRIC_NAMES, primary_metric
from etfhead.experiment.training.checkpoint import StateFile
from etfhead.experiment.training.engine import Trainer
from etfhead.experiment.training.fingerprint import differences, make_fingerprint
from etfhead.experiment.training.outcome import conclude
from etfhead.experiment.training.progress import ProgressBar, say
from etfhead.experiment.training.session import Session
from etfhead.experiment.training.signals import StopRequest

__all__ = ["run_arm"]


def run_arm(
    recipe: Recipe,
    arm: str,
    seed: int,
    splits: Splits,
    folder: Path,
    *,
    stop: StopRequest,
    title: str,
    guard: Callable[[], None],
) -> None:
    """Train one arm with one seed to its ``result.json``, from its checkpoint if there is one.

    Args:
        recipe: The comparison.
        arm: Name of the arm.
        seed: Seed of the run.
        splits: Its data.
        folder: ``arms/<arm>/seed<k>``; one that is complete stays as it is.
        stop: Asked whether a signal has come.
        title: What stands before everything that is told.
        guard: Called before a file is written; raises where the folder is another process' by now.

    Raises:
        CheckpointError: If there is no usable checkpoint, or another run's.
        TrainingError: If numbers stop being finite, or a loading process dies.
        DataError: If an image turns out unreadable.
        Interrupted: If a signal came; the checkpoint is written.
        OSError: If the folder cannot be written.
    """
    # A new one for each run: the loss scale of float16 training must not pass from arm to arm.
    from accelerate import Accelerator

    accelerator = Accelerator()
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
        if (signum := stop.alone(accelerator)) is not None:  # nothing is written yet
            raise Interrupted(signum)

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
