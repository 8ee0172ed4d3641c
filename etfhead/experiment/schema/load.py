"""Recipes by name or path: find the file, read it, apply overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etfhead.experiment.recipe import Recipe
from etfhead.experiment.schema.description import redescribed
from etfhead.experiment.schema.overrides import apply_overrides
from etfhead.experiment.schema.plain import expect_mapping, recipe_from_dict
from etfhead.experiment.schema.yaml_lines import parse_yaml
from etfhead.experiment.suggest import did_you_mean

__all__ = ["RecipeInfo", "find_recipe", "list_recipes", "load_recipe"]

_SHIPPED = Path(__file__).parents[2] / "recipes"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class RecipeInfo:
    """A shipped recipe as ``etfhead ls`` shows it; ``takes`` is the hardware and time its header states."""

    name: str
    description: str
    model: str
    dataset: str
    takes: str
    path: Path


def list_recipes() -> tuple[RecipeInfo, ...]:
    """List the shipped recipes by name.

    >>> "quickstart" in [info.name for info in list_recipes()]
    True
    """
    return tuple(_info(path) for path in sorted(_SHIPPED.glob("*.yaml")))


def _info(path: Path) -> RecipeInfo:
    text = path.read_text(encoding="utf-8")
    data = parse_yaml(text, path.name)[0]
    takes = re.search(r"^# Takes: +(.+)$", text, re.MULTILINE)
    return RecipeInfo(
        name=path.stem,
        description=data["description"],
        model=data["model"],
        dataset=data["dataset"],
        takes=takes[1] if takes else "",
        path=path,
    )


def find_recipe(name_or_path: str) -> Path:
    """Return the YAML file of a shipped recipe's name, a path, or a run folder.

    A bare name means the shipped recipe; write ``./name`` for a file of that name.

    Raises:
        ValueError: If there is no such recipe or file.
    """
    shipped = {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        path = path / "recipe.yaml"
    if path.exists():
        return path
    if "/" in name_or_path or "\\" in name_or_path:
        raise ValueError(
            f"no recipe file {str(path)!r}; `etfhead ls` lists the recipes that come with etfhead"
        )
    hint = did_you_mean(name_or_path.removesuffix(".yaml").removesuffix(".yml"), shipped)
    raise ValueError(f"no recipe or file {name_or_path!r}{hint}; `etfhead ls` lists the recipes")


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a shipped recipe by name, or any recipe file or run folder, and apply overrides.

    A description does not outlive overrides of what it is about; see
    :func:`~etfhead.experiment.schema.description.redescribed`.

    Args:
        name_or_path: ``quickstart``, ``my.yaml`` or ``runs/quickstart``.
        overrides: ``key=value``, ``arms.etf.basis=haar``, ``~arms.cosine``.

    Raises:
        ValueError: If there is no such recipe, or it is not valid; the message names file, line and key.
        OSError: If the file cannot be read.

    >>> load_recipe("quickstart", ["epochs=3", "seeds=0,1"]).seeds
    (0, 1)
    """
    path = find_recipe(name_or_path)
    where = path.name if path.parent == _SHIPPED else str(path)
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{where}: larger than 1 MB, not a recipe")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not a text file in UTF-8 (byte {error.start})") from None
    data, origins = parse_yaml(text, where)
    data = expect_mapping(data, where)
    changed, origins = apply_overrides(data, origins, overrides)
    return recipe_from_dict(redescribed(data, changed), where, origins)
