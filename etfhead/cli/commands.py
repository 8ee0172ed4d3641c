"""What each command of the command line does; heavy imports stay inside the commands that need them."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etfhead.experiment.terminal import printable

if TYPE_CHECKING:
    from etfhead.experiment.recipe import Recipe

__all__ = ["explain", "run_cp", "run_ls", "run_report", "run_run", "run_show", "run_validate"]

_WHEELS = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}  # where pip has another name


def run_ls(args: argparse.Namespace) -> int:
    """Print the shipped recipes as a table."""
    from etfhead.experiment.schema import list_recipes

    rows = [("NAME", "WHAT", "MODEL", "DATA", "TAKES")]
    rows += [(r.name, r.description, r.model, r.dataset, r.takes) for r in list_recipes()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print a resolved recipe with its comments."""
    from etfhead.experiment.schema import dump_recipe, load_recipe

    print(dump_recipe(load_recipe(args.recipe, args.overrides)), end="")
    return 0


def run_cp(args: argparse.Namespace) -> int:
    """Copy a recipe's file, comments included, to where nothing is yet; the copy is named after its file."""
    from etfhead.experiment.checks import is_run_name
    from etfhead.experiment.schema import copied, find_recipe, load_recipe

    source = find_recipe(args.recipe)
    origin = load_recipe(args.recipe).name
    dest = Path(args.dest).expanduser()
    if dest.is_dir() or args.dest.endswith(("/", os.sep)):
        dest = dest / source.name
    if dest.exists():
        raise ValueError(f"{str(dest)!r} exists and is never overwritten; choose another DEST")
    text = source.read_bytes().decode("utf-8-sig")
    name = dest.stem if is_run_name(dest.stem) else None
    content = copied(text, name=name, origin=origin).encode()
    dest.parent.mkdir(parents=True, exist_ok=True)
    try:
        with dest.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise ValueError(f"{str(dest)!r} exists and is never overwritten; choose another DEST") from None
    except OSError:
        dest.unlink(missing_ok=True)  # half a recipe would load as another one
        raise
    out = shlex.quote(str(Path("runs") / dest.stem))
    print(f"wrote {dest}; edit it, then: etfhead run {shlex.quote(str(dest))} --out {out}")
    return 0


def run_validate(args: argparse.Namespace) -> int:
    """Check a recipe without training."""
    from etfhead.experiment.advice import recipe_notes
    from etfhead.experiment.preflight import check_buildable
    from etfhead.experiment.schema import expand_settings, load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    each = list(expand_settings(recipe).values()) or [recipe]
    sizes = [check_buildable(setting) for setting in each]
    arms, seeds = len(recipe.arms), len(recipe.seeds)
    settings = f"{len(recipe.settings)} settings x " if recipe.settings else ""
    print(
        f"ok: {recipe.name}: {settings}{arms} arms x {seeds} seeds = {len(each) * arms * seeds} runs of "
        f"{recipe.epochs} epochs, {recipe.model} ({sizes[0]:,} parameters) on {recipe.dataset}"
    )
    for note in _folder_notes(each):
        print(f"image_folder: {note}")
    for note in dict.fromkeys(note for setting in each for note in recipe_notes(setting)):
        print(f"note: {note}")
    return 0


def _folder_notes(recipes: Sequence[Recipe]) -> list[str]:
    """How the folders of images became parts, each way once."""
    from etfhead.experiment.data.folder import folder_split

    folders = dict.fromkeys(each.data_root for each in recipes if each.dataset == "image_folder")
    return [note for note in dict.fromkeys(map(folder_split, folders)) if note]


def run_run(args: argparse.Namespace) -> int:
    """Run a comparison, print its table and where the report is."""
    from etfhead.errors import Interrupted
    from etfhead.experiment.schema import expand_settings, load_recipe, smoke

    recipe = load_recipe(args.recipe, args.overrides)
    if args.smoke:
        recipe = smoke(recipe)
    out = _run_folder(args, recipe.name)

    # torch and timm load here, after everything that can be wrong in the recipe itself was said.
    from etfhead.experiment.preflight import check_buildable
    from etfhead.experiment.runner import run

    for each in expand_settings(recipe).values() or (recipe,):
        check_buildable(each)
    try:
        run(recipe, out, resume=args.resume, overwrite=args.overwrite)
    except Interrupted as stop:
        with contextlib.suppress(OSError):  # SIGHUP: the terminal is gone
            print(f"etfhead: {stop}\ncontinue with: {_resume_command(args, out)}", file=sys.stderr)
        return 128 + stop.signum
    # Under torchrun every process comes here; one of them talks.
    if os.environ.get("RANK", "0") == "0":
        _print_table(out)
        print(f"report: {out / 'report.html'}")
    return 0


def _run_folder(args: argparse.Namespace, name: str) -> Path:
    """``--out``, or the run folder that is to go on, or ``runs/<name>``."""
    from etfhead.experiment.run_folder import is_run_folder
    from etfhead.experiment.schema import find_recipe

    if args.out:
        return Path(args.out)
    recipe, given = find_recipe(args.recipe), Path(args.recipe).expanduser()
    if args.resume and recipe.name == "recipe.yaml" and (given.is_dir() or is_run_folder(recipe.parent)):
        return recipe.parent
    return Path("runs") / name


def _resume_command(args: argparse.Namespace, out: Path) -> str:
    smoke = ["--smoke"] if args.smoke else []
    words = ["etfhead", "run", args.recipe, *args.overrides, *smoke, "--out", str(out), "--resume"]
    return shlex.join(words)


def _print_table(out: Path) -> None:
    from etfhead.experiment.report import format_folder

    print(printable(format_folder(out)))


def run_report(args: argparse.Namespace) -> int:
    """Write reports again from their run folders; print the table or one of the files."""
    from etfhead.experiment.report import write_folder

    files = {"md": "report.md", "csv": "summary.csv", "json": "summary.json", "html": "report.html"}
    folders = [Path(name) for name in args.dirs]
    for out in folders:
        if not (out / "recipe.yaml").is_file():
            raise ValueError(f"{str(out)!r} is not a run folder: it has no recipe.yaml")
    for out in folders:
        write_folder(out)
        if args.format:
            print(printable((out / files[args.format]).read_text(encoding="utf-8")), end="")
            continue
        _print_table(out)
        print(f"report: {out / 'report.html'}")
    return 0


def explain(error: Exception) -> str | None:
    """One line for an error that the user can mend, or None for any other."""
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "etfhead":
        package = error.name.split(".")[0]
        wheel = _WHEELS.get(package, package)
        return f"the Python package {package!r} is needed for this and not installed; pip install {wheel}"
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{' -> '.join(names)}: {error.strerror}" if names else error.strerror
    if isinstance(error, RuntimeError) and (reason := _lost_worker(error)) is not None:
        return reason
    unknown_user = isinstance(error, RuntimeError) and "home directory" in str(error)  # pathlib, of ~nobody
    if isinstance(error, (ValueError, OSError)) or unknown_user:
        return " ".join(str(error).split())
    return None


def _lost_worker(error: RuntimeError) -> str | None:
    from etfhead.experiment.data.workers import told_of_death

    reason = told_of_death(error)
    return None if reason is None else f"{reason}; lower --workers or --batch-size"
