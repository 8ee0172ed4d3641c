"""etfhead/ calls nothing that runs code of a file, each exception named; ``make faults`` shows it at work."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import etfhead

PACKAGE = Path(etfhead.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Modules that unpickle, start programs or load libraries.
MODULES = {
    "pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "subprocess", "pty", "ctypes", "cffi",
    "code", "runpy", "tarfile", "xml", "webbrowser",
}  # fmt: skip
# Calls by their last name, whatever they are called on.
CALLS = {
    "eval", "exec", "compile", "__import__", "system", "popen", "spawnl", "spawnv", "execv", "execve", "fork",
    "extractall", "unpack_archive", "load_library", "hub_load", "literal_eval", "unsafe_load", "full_load",
    "unsafe_eval", "import_module", "run_path", "run_module", "fromfile", "loadtxt", "genfromtxt",
}  # fmt: skip
ALLOWED = {
    ("__init__.py", "import_module"): "names of etfhead, from a table",
    ("metrics/__init__.py", "import_module"): "names of etfhead, from a table",
    ("theory/registry.py", "import_module"): "theorems of etfhead, from a table",
    ("experiment/export/formats.py", "import_module"): "onnxruntime, a constant",
    ("experiment/environment.py", "subprocess"): "git, with constant arguments, for the commit of a run",
    ("experiment/data/label_files.py", "pickle"): "its UnpicklingError, which torch raises",
}
_METHODS_OF_MODELS = {"eval", "compile"}  # model.eval(), re.compile(): a method with these names runs no text


def name_of(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def keyword(call: ast.Call, name: str) -> object:
    for each in call.keywords:
        if each.arg == name:
            return each.value.value if isinstance(each.value, ast.Constant) else "?"
    return None


def faults(source: str, file: str) -> list[str]:
    """What the source calls or imports that it may not."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module.split(".")[0]))
            found += [(node.lineno, alias.name) for alias in node.names if alias.name in CALLS]
        elif isinstance(node, ast.Call):
            found += [(node.lineno, wrong) for wrong in _wrong_call(node)]
    known = MODULES | CALLS
    named = [(line, what) for line, what in found if what in known or " " in what]
    return [f"{file}:{line}: {what}" for line, what in named if (file, what) not in ALLOWED]


def _wrong_call(call: ast.Call) -> list[str]:
    name = name_of(call.func)
    owner, _, last = name.rpartition(".")
    wrong = []
    if last in CALLS and not (owner and last in _METHODS_OF_MODELS):
        wrong.append(last)
    if (
        last == "load"
        and owner in ("torch", "torch.serialization")
        and keyword(call, "weights_only") is not True
    ):
        wrong.append("torch.load without weights_only=True")
    if last == "load_state_dict" and not owner and keyword(call, "weights_only") is not True:
        wrong.append("timm's load_state_dict without weights_only=True")
    if name == "torch.export.load":
        wrong.append("torch.export.load beside load_program")
    if last == "load" and owner in ("np", "numpy") and keyword(call, "allow_pickle") is not False:
        wrong.append("numpy.load without allow_pickle=False")
    if owner == "yaml" and last in ("load", "load_all", "unsafe_load", "full_load"):
        wrong.append("yaml.load where safe_load would do")
    if keyword(call, "shell") not in (None, False):
        wrong.append("a call with shell=True")
    if keyword(call, "trust_remote_code") not in (None, False):
        wrong.append("a call with trust_remote_code")
    if name.startswith("torch.jit.") or name in ("torch.hub.load", "torch.package.PackageImporter"):
        wrong.append(f"a call of {name}")
    return wrong


# The one reader of programs, and the check of what an export just wrote itself.
_PROGRAMS = {"experiment/predict/program.py", "experiment/export/formats.py"}


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(PACKAGE)) for p in SOURCES])
def test_nothing_runs_code_of_files(path):
    file = path.relative_to(PACKAGE).as_posix()
    found = faults(path.read_text(encoding="utf-8"), file)
    assert [
        f for f in found if not (file in _PROGRAMS and f.endswith("torch.export.load beside load_program"))
    ] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import subprocess", "from os import system",
        "import os\nos.system('x')", "eval('1')", "exec('1')", "__import__('os')",
        "torch.load('x')", "torch.load('x', weights_only=False)", "torch.load('x', weights_only=flag)",
        "np.load('x')", "np.load('x', allow_pickle=True)", "yaml.load('x')", "yaml.unsafe_load('x')",
        "run('x', shell=True)", "torch.jit.load('x')", "torch.hub.load('a', 'b')", "archive.extractall()",
        "torch.export.load('x')", "importlib.import_module(name)", "f(trust_remote_code=True)",
        "load_state_dict(path)", "compile('1', 'x', 'eval')",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source):
    assert faults(source, "x.py")


def test_harmless_code_is_left_alone():
    source = (
        "import json, re, yaml\nmodel.eval()\nre.compile('a')\nyaml.safe_load(text)\n"
        "model.load_state_dict(state)\ntorch.load(path, weights_only=True)\n"
        "np.load(path, allow_pickle=False)\nload_state_dict(path, weights_only=True)\n"
    )
    assert faults(source, "x.py") == []


def test_every_exception_is_still_needed():
    for (file, what), reason in ALLOWED.items():
        source = (PACKAGE / file).read_text(encoding="utf-8")
        assert what in source, f"{file} no longer has {what} ({reason}): take it off the list"
