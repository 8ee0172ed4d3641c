"""The floors of the house: imports go down only, and a light import stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import etfhead

PACKAGE = Path(etfhead.__file__).parent
MAY_IMPORT = {
    "_version": set(),
    "errors": set(),
    "frames": set(),
    "heads": {"frames"},
    "losses": {"frames", "heads"},
    "metrics": {"frames", "heads", "surgery"},
    "theory": {"frames", "heads"},
    "surgery": {"heads", "frames"},
    "integrations": {"heads", "frames", "surgery"},
    "experiment": {"frames", "heads", "losses", "metrics", "theory", "surgery", "errors", "_version"},
    "cli": {"experiment", "theory", "errors", "_version"},
    "recipes": set(),
    "__init__": {"_version", "frames", "heads", "losses", "metrics", "surgery", "theory"},
}
HEAVY = ["timm", "torchvision", "torchmetrics", "matplotlib", "sklearn", "accelerate", "transformers"]


def floor(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_floors(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("etfhead.")}
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(PACKAGE)) for p in SOURCES])
def test_imports_go_down_only(path):
    own = floor(path)
    assert own in MAY_IMPORT, f"{own} has no floor yet: give it one here"
    allowed = MAY_IMPORT[own] | {own}
    floors = {
        name
        for name in imported_floors(path)
        if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()
    }
    assert floors <= allowed, f"{path.name} imports {floors - allowed}"


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {line.partition(".")[0] for line in done.stdout.splitlines()}


def test_public_names_load_torch_and_nothing_heavier():
    names = ", ".join(n for n in etfhead.__all__ if n != "__version__")
    loaded = modules_after(f"from etfhead import {names}")
    assert "torch" in loaded
    assert not loaded & set(HEAVY)


def test_the_recipe_floor_needs_no_torch():
    loaded = modules_after(
        "import etfhead, etfhead.cli, etfhead.experiment.recipe, etfhead.experiment.schema"
    )
    assert not loaded & {"torch", "numpy", *HEAVY}


def test_unknown_attribute_is_an_attribute_error_and_dir_lists_the_public_names():
    with pytest.raises(AttributeError, match="no attribute 'ETFhead'"):
        etfhead.ETFhead  # noqa: B018
    assert dir(etfhead) == sorted(etfhead.__all__)
    assert all(getattr(etfhead, name) is not None for name in etfhead.__all__)
