"""Every shipped recipe runs to its report in seconds."""

import json
from dataclasses import replace

import pytest
import torch

from etfhead.experiment.runner import run
from etfhead.experiment.schema import list_recipes, load_recipe, smoke
from tests.older_timm import runnable

NAMES = [info.name for info in list_recipes()]


@pytest.mark.parametrize("name", NAMES)
def test_smoke_run(name, tmp_path):
    _runs_to_its_report(runnable(smoke(load_recipe(name))), tmp_path / "out")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_smoke_run_on_cuda(name, tmp_path):
    """In the precision and memory format that the recipe itself wants of a GPU."""
    whole = load_recipe(name)
    settings = {key: getattr(whole, key) for key in ("amp_dtype", "channels_last", "torchcompile")}
    recipe = replace(runnable(smoke(whole)), cpu=False, workers=2, **settings)
    for result in _runs_to_its_report(recipe, tmp_path / "out"):
        assert result["device"] == torch.cuda.get_device_name(0)
        assert result["peak_memory_bytes"] > 0


def _runs_to_its_report(recipe, out):
    """Train every arm, or of dozens some; returns the results."""
    # Some studies have dozens of arms; `check_buildable` sees them all in tests/test_recipes.py.
    first = dict(list(recipe.settings.items())[:1])
    arms = dict(list(recipe.arms.items())[:: max(1, len(recipe.arms) // 8)])
    arms[recipe.baseline] = recipe.arms[recipe.baseline]
    recipe = replace(recipe, seeds=recipe.seeds[:1], settings=first, arms=arms)
    run(recipe, out)
    found = []
    for folder in [out / "settings" / setting for setting in recipe.settings] or [out]:
        results = [json.loads(path.read_text()) for path in folder.glob("arms/*/seed*/result.json")]
        assert {(r["arm"], r["seed"]) for r in results} == {(a, s) for a in recipe.arms for s in recipe.seeds}
        assert all(result["epochs"] == recipe.epochs for result in results)
        assert (folder / "report.html").stat().st_size > 1000
        found += results
    assert (out / "report.html").stat().st_size > 1000
    return found
