"""Code in the ``model.pt2`` of an export, which ``torch.export.load`` by itself would run."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from tests.faults.kills import Outcome
from tests.faults.payloads import Harm
from tests.faults.runs import call, in_process, must

__all__ = ["code_in_programs"]

Change = Callable[[str, bytes], bytes]


def code_in_programs(whole: Path, place: Path) -> Iterator[Outcome]:
    """Pickles, functions and text that becomes Python, each in a copy of an export that `predict` reads."""
    mark, export, image = place / "mark", place / "export", place / "image.png"
    Image.new("L", (8, 8)).save(image)
    words = ["export", whole, "--format", "torch-export", "--out", export]
    must(in_process(call(words), place / "log"), "an export")
    evil, good = place / "evil", export / "model.pt2"
    for what, change in {"untouched": lambda _name, data: data, **_plants(mark)}.items():
        shutil.rmtree(evil, ignore_errors=True)
        shutil.copytree(export, evil)
        changed = _planted(good, evil / "model.pt2", change)
        ended = in_process(call(["predict", evil, image]), place / "log")
        expected = 0 if what == "untouched" else 2
        if mark.exists():
            yield what, "EXECUTED"
            mark.rmdir()
        elif changed == (what == "untouched"):
            yield what, "the file has no place for it: plant it elsewhere"
        elif "Traceback" in ended.told or ended.code != expected:
            yield what, f"exit code {ended.code}: {ended.told[-300:]}"
        else:
            yield what, ""


def _plants(mark: Path) -> dict[str, Change]:
    harm = io.BytesIO()
    torch.save((Harm(mark),), harm)
    code = f"__import__('os').mkdir({str(mark)!r})"

    def in_model(edit: Callable[[dict], None]) -> Change:
        def change(name: str, data: bytes) -> bytes:
            if not name.endswith("models/model.json"):
                return data
            content = json.loads(data)
            edit(content)
            return json.dumps(content).encode()

        return change

    def nodes(content: dict) -> list[dict]:
        return content["graph_module"]["graph"]["nodes"]

    return {
        "a pickle as sample inputs": lambda name, data: harm.getvalue() if "sample_inputs" in name else data,
        "a pickle as weights": lambda name, data: harm.getvalue() if "/weights/" in name else data,
        "os.mkdir as an operation": in_model(lambda c: nodes(c)[0].update(target="torch.os.mkdir")),
        "a library as an operation": in_model(lambda c: nodes(c)[0].update(target="torch.ops.load_library")),
        "code as a condition on inputs": in_model(lambda c: c.update(guards_code=[code])),
        "code as the name of an input": lambda name, data: (
            data.replace(b'"x"', json.dumps(f"x={code}").encode())
            if name.endswith("models/model.json")
            else data
        ),
        "code as a size": in_model(lambda c: _swap(c, "expr_str", code)),
        "a module to import as a container": lambda name, data: (
            data.replace(b"builtins.tuple", b"collections.defaultdict")
            if name.endswith("models/model.json")
            else data
        ),
    }


def _swap(value: object, key: str, text: str) -> None:
    """Replace every entry of that name, however deep."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(part, dict) and key in part:
            part[key] = text
        _swap(part, key, text)


def _planted(whole: Path, path: Path, change: Change) -> bool:
    """Write a copy with every member passed through ``change``; whether one is another now."""
    changed = False
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            after = change(name, data)
            changed |= after != data
            new.writestr(name, after)
    return changed
