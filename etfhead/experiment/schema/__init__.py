"""The recipe schema: YAML and overrides to a checked `Recipe`, and back. Loads no torch."""

from etfhead.experiment.schema.copying import copied
from etfhead.experiment.schema.dump import dump_recipe
from etfhead.experiment.schema.load import RecipeInfo, find_recipe, list_recipes, load_recipe
from etfhead.experiment.schema.plain import expand_settings, recipe_from_dict, recipe_to_dict
from etfhead.experiment.schema.shrink import smoke

__all__ = [
    "RecipeInfo",
    "copied",
    "dump_recipe",
    "expand_settings",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
    "smoke",
]
