"""What the README says is what the package does and what the result files hold."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch

import etfhead
from benchmarks import readme
from etfhead.experiment.schema import list_recipes

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)  # whatever ran before
    names = {"timm": timm, "torch": torch, "etfhead": etfhead}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    fresh = timm.create_model("resnet18", num_classes=100)
    fresh.load_state_dict(torch.load("resnet18.pt", weights_only=True), strict=True)


def test_the_card_of_a_million_classes_trains(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "large_k.md").read_text(), re.DOTALL)
    smaller = block.replace("1_000_000, 1024", "20_000, 256").replace("1024", "256")
    assert smaller.count("20_000") == 1
    names: dict[str, object] = {}
    exec(compile(smaller, "large_k.md", "exec"), names)
    assert names["value"].item() < 1.0
    assert (names["found"] == names["y"]).all()
    assert "tensor(1.)" in capsys.readouterr().out


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda path: path.name)
def test_tables_are_those_of_the_result_files(page):
    text = page.read_text()
    assert readme.filled(text) == text, "run python -m benchmarks.readme"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_carry_their_machine(path):
    content = json.loads(path.read_text())
    assert content["results"]
    metadata = content["metadata"]
    assert {"torch", "python", "etfhead"} <= set(json.dumps(metadata).replace('"', " ").split())
    assert "/root" not in json.dumps(content)


def test_every_shipped_recipe_named_in_the_text_exists():
    shipped = {recipe.name for recipe in list_recipes()}
    assert set(re.findall(r"etfhead (?:run|cp|show) (\w+)", TEXT)) - {"mine"} <= shipped


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
