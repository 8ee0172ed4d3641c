"""A study: one comparison again under each of its settings, and a report over all of them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from etfhead.experiment.data.rng import preserved_rng
from etfhead.experiment.folder_lock import FolderLock, refuse_locked
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.run_folder import check_folder, is_run_folder, setting_folder
from etfhead.experiment.runner import check_run, run, start_folder
from etfhead.experiment.training.accelerator import make_accelerator
from etfhead.experiment.training.arms import resolve_arms
from etfhead.experiment.training.progress import say

__all__ = ["run_study"]


def run_study(recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Run the comparison under every setting, each into a run folder of its own, and report on all.

    What can be refused is refused for all settings before the first step. A setting's folder,
    ``settings/<setting>``, is that of any run: ``etfhead run`` with ``--resume`` continues the study.

    Args:
        recipe: With ``settings``.
        out: Folder of the study.
        resume: Continue the study in ``out``; new settings, arms and seeds are added.
        overwrite: Delete the study in ``out`` first.

    Returns:
        Path: ``out``.

    Raises:
        ValueError: If a folder, setting, its data or an arm does not allow the run.
        CheckpointError: If ``resume`` finds no usable checkpoint, or another run's.
        TrainingError: If numbers stop being finite.
        Interrupted: If SIGINT, SIGTERM or SIGHUP came; the checkpoint is written.
        OSError: If a folder cannot be written.
    """
    from etfhead.experiment.report.study import write_study_report
    from etfhead.experiment.schema import expand_settings

    out, recipe = Path(out), resolve_arms(recipe)
    settings = expand_settings(recipe)
    folders = {name: setting_folder(out, name) for name in settings}
    again: dict[str, dict[str, Any]] = {
        name: {"resume": resume, "overwrite": overwrite and is_run_folder(folder)}
        for name, folder in folders.items()
    }
    with make_accelerator(recipe) as accelerator:
        for folder in (out, *folders.values()) if accelerator.is_main_process else ():
            refuse_locked(folder)
    check_folder(out, recipe, resume=resume, overwrite=overwrite)
    for name, each in settings.items():
        check_folder(folders[name], resolve_arms(each), **again[name])
        with preserved_rng(), make_accelerator(each):
            try:
                check_run(each)
            except ValueError as error:
                raise type(error)(f"setting {name!r}: {error}") from error
    with ExitStack() as held:
        with make_accelerator(recipe) as accelerator:
            main = accelerator.is_main_process
            if main:
                lock = held.enter_context(FolderLock(out))
                check_folder(out, recipe, resume=resume, overwrite=overwrite)  # a run may have come and gone
                start_folder(out, recipe, overwrite=overwrite)
            accelerator.wait_for_everyone()
        for count, (name, each) in enumerate(settings.items(), start=1):
            if main:
                lock.check()
                say(f"setting {name} ({count} of {len(settings)})")
            run(each, folders[name], **again[name])
        if main:
            lock.check()
            write_study_report(out)
    return out
