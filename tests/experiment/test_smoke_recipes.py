"""Every shipped recipe runs to its report in seconds."""

import json
from dataclasses import replace

import pytest

from etfhead.experiment.runner import run
from etfhead.experiment.schema import list_recipes, load_recipe, smoke
from tests.older_timm import runnable


@pytest.mark.parametrize("name", [info.name for info in list_recipes()])
def test_smoke_run(name, tmp_path):
    recipe = runnable(smoke(load_recipe(name)))
    # Some studies have dozens of arms; `check_buildable` sees them all in tests/test_recipes.py.
    first = dict(list(recipe.settings.items())[:1])
    arms = dict(list(recipe.arms.items())[:: max(1, len(recipe.arms) // 8)])
    arms[recipe.baseline] = recipe.arms[recipe.baseline]
    recipe = replace(recipe, seeds=recipe.seeds[:1], settings=first, arms=arms)
    out = run(recipe, tmp_path / "out")
    for folder in [out / "settings" / setting for setting in recipe.settings] or [out]:
        results = [json.loads(path.read_text()) for path in folder.glob("arms/*/seed*/result.json")]
        assert {(r["arm"], r["seed"]) for r in results} == {(a, s) for a in recipe.arms for s in recipe.seeds}
        assert all(result["epochs"] == recipe.epochs for result in results)
        assert (folder / "report.html").stat().st_size > 1000
    assert (out / "report.html").stat().st_size > 1000
