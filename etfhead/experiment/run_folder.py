"""Which output folders a run may use, and which files in one are a run's."""

from __future__ import annotations

from pathlib import Path

from etfhead.errors import CheckpointError
from etfhead.experiment.checksums import is_intact
from etfhead.experiment.files import parse_json
from etfhead.experiment.folder_lock import LOCK
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.training.checkpoint import PREVIOUS, STATE
from etfhead.experiment.training.fingerprint import differences, shared_settings

__all__ = [
    "ENVIRONMENT",
    "check_folder",
    "check_same_data",
    "clear_folder",
    "damaged_facts",
    "is_run_folder",
    "seed_folder",
    "setting_folder",
]

ENVIRONMENT = "env.json"
# A run that was killed at once leaves no more than these.
_BEFORE_THE_FIRST_FILE = {LOCK, f"{ENVIRONMENT}.tmp"}
# In the order of deletion: what is left at any moment is a run that can be continued.
SEED_FILES = (
    "result.json",
    "last.safetensors",
    "best.safetensors",
    "features.npz",
    "metrics.jsonl",
    PREVIOUS,
    STATE,
)
RUN_FILES = ("recipe.yaml", "data.json")


def seed_folder(out: Path, arm: str, seed: int) -> Path:
    """Folder of one arm and seed."""
    return out / "arms" / arm / f"seed{seed}"


def setting_folder(out: Path, setting: str) -> Path:
    """Folder of one setting of a study."""
    return out / "settings" / setting


def is_run_folder(out: Path) -> bool:
    """Whether etfhead started a run here: a stray recipe.yaml does not make a folder one."""
    try:
        environment = parse_json((out / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(environment, dict) and "etfhead" in environment


def check_folder(out: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that this run must not touch. Nothing is written.

    Raises:
        ValueError: The folder holds foreign files, or a run that may neither be continued nor replaced.
        CheckpointError: ``resume`` of a run with other settings.
    """
    if resume and overwrite:
        raise ValueError("--resume continues a run and --overwrite deletes it: give one of them")
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"out: {out} is a file; expected a folder that is empty or does not exist")
    if {entry.name for entry in out.iterdir()} <= _BEFORE_THE_FIRST_FILE:
        return
    if not is_run_folder(out) and not (resume and _lost_its_environment(out)):
        raise ValueError(
            f"out: {out} holds files that are not a run of etfhead; choose an empty folder with --out"
        )
    if not resume and not overwrite:
        raise ValueError(
            f"out: {out} holds a run; --resume continues it, --overwrite deletes it and starts again, "
            "--out writes elsewhere"
        )
    if resume:
        _check_same_settings(out, recipe)
    elif link := next((path for path in _folders(out) if path.is_symlink()), None):
        raise ValueError(f"out: {link} is a link, and nothing is deleted through links; remove it first")


def _check_same_settings(out: Path, recipe: Recipe) -> None:
    """Arms of one folder are compared with each other: they must share everything but head and loss."""
    earlier = _earlier_recipe(out)
    if earlier is None:
        return
    advice = "use the same settings, another --out, or --overwrite"
    if differs := differences(shared_settings(earlier), shared_settings(recipe)):
        raise CheckpointError(
            f"--resume: {out} holds a run with other settings in its recipe.yaml ({differs}); {advice}"
        )
    for name, arm in recipe.arms.items():
        if name in earlier.arms and (differs := differences(vars(earlier.arms[name]), vars(arm))):
            raise CheckpointError(
                f"--resume: arm {name!r} has other options in {out}/recipe.yaml ({differs}); {advice}"
            )


def check_same_data(out: Path, digest: str) -> None:
    """Refuse to continue a run on other images or another split.

    Raises:
        CheckpointError: ``data.json`` of the run has another digest.
    """
    try:
        facts = parse_json((out / "data.json").read_text(encoding="utf-8"))
        earlier = facts["digest"] if is_intact(facts) else digest  # every checkpoint knows its data as well
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # stopped before it was written
        return
    if earlier != digest:
        raise CheckpointError(
            f"--resume: {out} was run on other data (digest {earlier} there, {digest} now); restore the data "
            "of that run and its parts (was there a val/ folder?), or choose another --out"
        )


def damaged_facts(out: Path) -> list[Path]:
    """Which of the files that every start of a run writes anew are damaged."""
    return [path for name in (ENVIRONMENT, "data.json") if (path := out / name).exists() and not _sound(path)]


def _sound(path: Path) -> bool:
    try:
        facts = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and is_intact(facts)


def _earlier_recipe(out: Path) -> Recipe | None:
    from etfhead.experiment.schema import recipe_from_dict
    from etfhead.experiment.schema.yaml_lines import parse_yaml

    path = out / "recipe.yaml"
    if not path.exists():  # stopped before it was written: then nothing was trained either
        return None
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), path.name)[0]
        return recipe_from_dict(content, str(path))
    except ValueError as error:
        raise CheckpointError(
            f"--resume: {path} is damaged ({str(error).splitlines()[0]}); "
            "restore it from the recipe of the run, or delete it: the checkpoints know their settings too"
        ) from error


def clear_folder(out: Path) -> None:
    """Delete what a run and its report write, by name; anybody else's file stays, with its folder."""
    for folder in sorted((out / "settings").glob("*")):
        if is_run_folder(folder) and not folder.is_symlink():
            clear_folder(folder)
            _remove(folder, ())
    _remove(out / "settings", ())
    for folder in sorted((out / "arms").glob("*/seed*")):
        _remove(folder, SEED_FILES)
    for folder in sorted((out / "arms").glob("*")):
        _remove(folder, ())
    _remove(out / "arms", ())
    # env.json goes last: until then this is a run's folder, which a killed run may be asked to clear again.
    _remove_files(out, (*RUN_FILES, *_report_files(), ENVIRONMENT))


def _folders(out: Path) -> list[Path]:
    """Folders inside a run or study that clearing it would enter."""
    found = [out / "settings", *sorted((out / "settings").glob("*"))]
    for run in (out, *found[1:]):
        found += [run / "arms", *sorted((run / "arms").glob("*")), *sorted((run / "arms").glob("*/seed*"))]
    return found


def _lost_its_environment(out: Path) -> bool:
    """Whether only ``env.json`` is damaged: what follows from it is who may delete, not who may continue."""
    known = all((out / name).is_file() for name in (ENVIRONMENT, "recipe.yaml"))
    # A study has no data of its own.
    return known and ((out / "data.json").is_file() or any(map(is_run_folder, (out / "settings").glob("*"))))


def _report_files() -> tuple[str, ...]:
    from etfhead.experiment.report import FILES, STUDY_FILES

    return tuple(dict.fromkeys((*FILES, *STUDY_FILES)))


def _remove(folder: Path, names: tuple[str, ...]) -> None:
    if not folder.is_dir() or folder.is_symlink():
        return
    _remove_files(folder, names)
    if not any(folder.iterdir()):
        folder.rmdir()


def _remove_files(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        for path in (folder / name, folder / f"{name}.tmp"):
            path.unlink(missing_ok=True)
