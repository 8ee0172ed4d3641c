"""A ``torch.export`` program from a file, without the pickles and libraries that such a file can hold.

``torch.export.load`` unpickles sample inputs, constants and odd weights when its safe reader refuses them,
loads compiled libraries, evaluates the text of sizes, and lets a node call whatever is under ``torch``.
Programs of ``etfhead export`` need none of it.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from etfhead.experiment.files import parse_json

__all__ = ["load_program"]

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_MODEL = re.compile(r"[^/]+/models/[^/]+\.json")
_PARTS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+"
    r"|data/(weights|constants)/[\w.]+|data/sample_inputs/\w+\.pt|models/\w+\.json)"
)
# Operations on tensors, of which one reads and writes files, and arithmetic of sizes.
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+"
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
        _refuse_code(path)
        with _no_pickles():
            program = torch.export.load(path)
        if device.type != "cpu":  # a graph names devices, so moving the weights is not enough
            program = move_to_device_pass(program, device)
        return program.module()
    except Exception as error:  # zipfile, json and torch each have their own way to fail on bad bytes
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        if "weights_only" in reason:  # torch's advice is to open it all the same
            reason = "it holds a pickle of more than tensors, which is not opened"
        raise ValueError(f"{path}: damaged, or of another version of torch ({reason})") from error


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


def _refuse_code(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not _PARTS.fullmatch(name):
                raise ValueError(f"it holds {name!r}, which an export does not")
            if _MODEL.fullmatch(name):
                _check(parse_json(archive.read(name).decode()))


def _check(value: Any) -> None:
    """Refuse functions that are no operations on tensors, and sizes that are no arithmetic."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        if not isinstance(part, dict):
            continue
        for key, allowed in (("target", _TARGET), ("expr_str", _SIZE)):
            text = part.get(key)
            # Signatures of inputs have targets too: names of parameters, next to what kind they are.
            if key == "target" and "inputs" not in part:
                continue
            if text is not None and not (isinstance(text, str) and allowed.fullmatch(text)):
                raise ValueError(f"it asks for {str(text)[:80]!r}, which an export does not")
        pending += part.values()
