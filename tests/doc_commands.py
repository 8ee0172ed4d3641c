"""Shell lines of the pages: read by the parsers they are meant for, and run where that takes a moment."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from etfhead import cli
from etfhead.experiment.schema import expand_settings, find_recipe, load_recipe
from etfhead.theory import THEOREMS
from tests.doc_pages import ROOT

_MAKEFILE = (ROOT / "Makefile").read_text()
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_HEREDOC = re.compile(r"^(.*?)<<'?(\w+)'?\n(.*?)\n\2$", re.MULTILINE | re.DOTALL)
_AT_ONCE = ("ls", "show", "cp", "validate", "export", "predict", "report")
_PLACEHOLDERS = {"RANK": "0"}


def commands(script: str) -> list[tuple[list[str], str]]:
    """Words and standard input of each command of a script."""
    found: list[tuple[list[str], str]] = []

    def _keep(match: re.Match[str]) -> str:
        found.append((shlex.split(match[1]), match[3]))
        return ""

    for line in _HEREDOC.sub(_keep, script).replace("\\\n", " ").splitlines():
        words = [_PLACEHOLDERS.get(word, word) for word in shlex.split(line, comments=True)]
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # OMP_NUM_THREADS=1 command
            words.pop(0)
        if words:
            assert not {"|", "&&", ";", "for", "while", "if"} & set(words), f"one command a line: {line}"
            found.append((words[: words.index(">")] if ">" in words else words, ""))
    return found


def check(words: list[str], text: str = "", *, run: bool) -> None:
    """One command: unknown ones fail. ``run`` calls what answers at once, in the current folder."""
    first, rest = words[0], words[1:]
    if first == "etfhead":
        _etfhead(rest, run=run)
    elif first == "make":
        _make(rest)
    elif first == "pip":
        _pip(rest)
    elif first == "python":
        _python(rest, text, run=run)
    elif first == "cp":
        assert [word for word in rest if not word.startswith("runs/")] == ["-r"], words
    elif first == "torchrun":
        _launched(get_args_parser().parse_args(rest))
    elif words[:2] == ["accelerate", "launch"]:
        args = launch_command_parser().parse_args(words[2:])
        assert not args.cpu or (args.num_processes or 1) == 1, "on a CPU accelerate starts one process"
        _launched(args)
    else:
        raise AssertionError(f"no test knows the command {first!r}")


def _etfhead(words: list[str], *, run: bool) -> None:
    if "--help" in words:
        with pytest.raises(SystemExit) as stop:
            cli._parse(words)
        assert stop.value.code == 0
        return
    args = cli._parse(words)
    command = args.run.__name__.removeprefix("run_")
    if "recipe" in args and _is_there(args.recipe):
        recipe = load_recipe(args.recipe, getattr(args, "overrides", ()))
        expand_settings(recipe)
    if "theorem" in args and args.theorem.islower():
        assert args.theorem in {*THEOREMS, "all"}, args.theorem
    if run and command in _AT_ONCE:
        if find_spec("onnx") is None:  # the other format that holds a whole model
            words = ["torch-export" if word == "onnx" else word for word in words]
        assert cli.main(words) == 0, words


def _is_there(recipe: str) -> bool:
    """Whether a recipe can be read here: a shipped one, or a file. Placeholders (RECIPE, ...) cannot."""
    placed = recipe.endswith(".yaml") or recipe.startswith("runs/")
    if recipe.isupper() or recipe == "..." or (placed and not Path(recipe).exists()):
        return False
    return find_recipe(recipe).exists()


def _make(words: list[str]) -> None:
    for word in words:
        name, equals, _ = word.partition("=")
        pattern = rf"^{name}\s*[?:]?=" if equals else rf"^{name}:"
        assert re.search(pattern, _MAKEFILE, re.MULTILINE), f"make {word}: not in the Makefile"


def _pip(words: list[str]) -> None:
    extras: dict[str, list[str]] = _PROJECT["optional-dependencies"]
    known = {re.split(r"[\[<>=]", line)[0] for line in sum(extras.values(), _PROJECT["dependencies"])}
    assert words[0] == "install"
    for word in words[1:]:
        if word in ("-e", "--editable", "--no-deps", "."):
            continue
        match = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?(?:[<>=]=?[\d.]+)?", word)
        assert match, word
        assert match[1] in known | {".", "etfhead"}, f"{match[1]} is not in pyproject.toml"
        assert set(match[2].split(",") if match[2] else ()) <= extras.keys(), f"no extra {word}"


def _python(words: list[str], text: str, *, run: bool) -> None:
    if words[0] == "-":
        _execute(text)
    elif words[0] == "-c":
        _execute(words[1])
    elif words[0] == "-m":
        _module(words[1], words[2:])
    elif words[0] == "train.py":  # timm's own
        options = dict(zip(words[1::2], words[2::2], strict=True))
        assert find_spec(options["--device-modules"])
        assert timm.is_model(options["--model"].removeprefix("etf_"))
    else:
        assert (ROOT / words[0]).is_file(), words[0]


def _execute(code: str) -> None:
    exec(compile(code, "a shell line", "exec"), {"__name__": "__main__"})


class _Parsed(Exception):  # noqa: N818
    """Raised where a program has read its arguments, so that it goes no further."""


def _module(name: str, words: list[str]) -> None:
    """A program's own parser reads its arguments."""
    if name == "etfhead.cli":
        _etfhead(words, run=False)
        return
    assert find_spec(name), name
    if not name.startswith("benchmarks."):
        return
    real = argparse.ArgumentParser.parse_args

    def _parse(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        raise _Parsed

    parser = mock.patch.object(argparse.ArgumentParser, "parse_args", _parse)
    with parser, mock.patch.object(sys, "argv", [name, *words]), pytest.raises((_Parsed, SystemExit)) as stop:
        importlib.import_module(name).main()
    assert getattr(stop.value, "code", 0) == 0, f"python -m {name} {shlex.join(words)}"


def _launched(args: argparse.Namespace) -> None:
    """What torchrun or accelerate starts."""
    if args.module:
        _module(args.training_script, args.training_script_args)
    else:
        assert (ROOT / args.training_script).is_file(), args.training_script
