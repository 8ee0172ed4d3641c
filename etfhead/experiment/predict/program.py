"""A ``torch.export`` program from a file, without the pickles and libraries that such a file can hold.

``torch.export.load`` unpickles sample inputs, constants and odd weights when its safe reader refuses them,
loads compiled libraries, evaluates the text of sizes, writes names and conditions on inputs into Python code,
imports what the layout of arguments names, and lets a node call whatever is under ``torch``. Programs of
``etfhead export`` need none of it.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from etfhead.experiment.files import parse_json
from etfhead.experiment.unread import why_unread

__all__ = ["load_program"]

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_MODEL = re.compile(r"[^/]+/models/[^/]+\.json")
_PARTS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+"
    r"|data/(weights|constants)/(?!custom_obj)[\w.]+|data/sample_inputs/\w+\.pt|models/\w+\.json)"
)
# Operations on tensors, of which two read and write files; blocks of them; arithmetic of sizes.
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!(?:from_file|save)\b)\w+\.\w+"
    r"|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pow|getitem|and_|or_|not_|eq|ne|lt|le|gt|ge)"
    r"|torch\.sym_(int|float|max|min|not|ite)|math\.(ceil|floor|trunc)"
)
# As sympy's srepr writes them: Mul(Integer(2), Symbol('s77', positive=True, integer=True)).
_SIZE = re.compile(
    r"(?:\b(?:Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilToInt|CeilDiv"
    r"|IntTrueDiv|TruncToInt|ToFloat|PowByNatural|Equality|Unequality|StrictLessThan|LessThan"
    r"|StrictGreaterThan|GreaterThan)\("
    r"|'[su]\d+'|\b[su]?\d+\b|\b(?:positive|integer|nonnegative)=True\b|[-+*/(), ])*"
)
# A condition on the sizes of inputs: L['x'].size()[0] % 2 == 0.
_GUARD = re.compile(
    r"(?:\bL(?:\['\w+'\]|\[\d+\])+|\.(?:size|stride)\(\)\[\d+\]|\b\d+\b|[-+*/%<>=!(), ]"
    r"|\b(?:and|or|not|True|False|Mod|PythonMod|FloorDiv|CleanDiv|Max|Min)\b)*"
)
_NAME = re.compile(r"\w*")
_WORDS = re.compile(r"[\w.:+-]*")  # of modules and weights too
_TEXT = re.compile(r"[^'\"\\\n]*")  # an argument of an operation, which is quoted where it becomes code
_RULES = {
    "target": _TARGET,
    "expr_str": _SIZE,
    "guards_code": _GUARD,
    "name": _NAME,
    "as_name": _NAME,
    "forward_arg_names": _NAME,
    "as_string": _TEXT,
}
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_KEYS = re.compile(r"null|\[(\"\w*\"(, )?)*\]")  # of a dict of arguments


def load_program(path: Path, device: torch.device) -> nn.Module:
    """Load a program and put it on a device.

    Args:
        path: ``model.pt2``.
        device: Where it will run.

    Raises:
        ValueError: If the file is damaged, is of another version of torch, or holds more than tensors and
            operations on them.
    """
    from torch.export.passes import move_to_device_pass

    try:
        copy = _checked_copy(path)
        with _no_pickles():
            program = torch.export.load(copy)
        if device.type != "cpu":  # a graph names devices, so moving the weights is not enough
            program = move_to_device_pass(program, device)
        return program.module()
    except Exception as error:  # zipfile, json and torch each have their own way to fail on bad bytes
        raise ValueError(f"{path}: damaged, or of another version of torch ({why_unread(error)})") from error


@contextmanager
def _no_pickles() -> Iterator[None]:
    """Make every ``torch.load`` of this process read tensors only, whatever its caller asked for."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _checked_copy(path: Path) -> io.BytesIO:
    """The archive again, of what was looked at alone: torch finds other members in an odd zip file."""
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as looked_at:
        for name in dict.fromkeys(archive.namelist()):
            if not _PARTS.fullmatch(name):
                raise ValueError(f"it holds {name!r}, which an export does not")
            data = archive.read(name)
            if _MODEL.fullmatch(name):
                _check(parse_json(data.decode()))
            looked_at.writestr(name, data)
    copy.seek(0)
    return copy


def _check(content: Any) -> None:
    """Refuse functions that are no operations on tensors, and text that could become another one."""
    pending = [("", content)]
    while pending:
        key, part = pending.pop()
        if isinstance(part, list):
            pending += [(key, item) for item in part]
        elif isinstance(part, dict):
            node = "target" in part and "inputs" in part
            for name, value in part.items():
                _require(_WORDS, name)
                # Signatures of inputs have targets too: names of parameters, next to what kind they are.
                if node or name != "target":
                    pending += [] if node and name == "metadata" else [(name, value)]  # that is never code
                else:
                    pending.append(("", value))
        elif isinstance(part, str) and key in ("in_spec", "out_spec"):
            _check_layout(parse_json(part))
        elif isinstance(part, str) or key == "target":
            _require(_RULES.get(key, _WORDS), part)


def _check_layout(part: Any) -> None:
    """Refuse arguments and results that are more than tuples, lists and dicts of tensors."""
    if isinstance(part, list):
        for item in part:
            _check_layout(item)
    elif isinstance(part, dict):
        if part.get("type") not in _CONTAINERS:
            _refuse(part.get("type"))
        if part.get("context") is not None:
            _require(_KEYS, part["context"])
        _check_layout(part.get("children_spec"))


def _require(allowed: re.Pattern[str], text: Any) -> None:
    if not (isinstance(text, str) and allowed.fullmatch(text)):
        _refuse(text)


def _refuse(what: Any) -> NoReturn:
    raise ValueError(f"it asks for {str(what)[:80]!r}, which an export does not")
