"""A program is read without running anything that was planted in its file."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from etfhead.experiment.predict.program import load_program
from tests.faults.payloads import Harm

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x.reshape(x.shape[0] * 2, 3)).reshape(x.shape[0], 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    net = Net().eval()
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(net, (torch.ones(2, 2, 3),), dynamic_shapes=({0: batch},)), path)
    return path, net


def planted(whole: Path, path: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes]) -> Path:
    """A copy with every member passed through ``change``, and more members."""
    path.unlink(missing_ok=True)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, data in more.items():
            new.writestr(name, data)
    return path


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def edited(data: bytes, edit: Callable[[dict], None]) -> bytes:
    content = json.loads(data)
    edit(content)
    return json.dumps(content).encode()


def test_it_computes_what_the_model_does_at_any_batch_size(whole):
    path, net = whole
    program = load_program(path, CPU)
    for size in (1, 2, 5):
        images = torch.randn(size, 2, 3)
        torch.testing.assert_close(program(images), net(images))
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_copy_that_was_only_packed_again_is_read(whole, tmp_path):
    load_program(planted(whole[0], tmp_path / "model.pt2", lambda name, data: data, {}), CPU)


@pytest.mark.parametrize("kind", ["function", "module"])
def test_pickles_are_not_opened(whole, tmp_path, kind):
    mark = tmp_path / "mark"
    evil = pickled((Harm(mark),) if kind == "function" else nn.Linear(1, 1))

    def in_inputs(name, data):
        return evil if "sample_inputs" in name else data

    def in_weights(name, data):
        if name.endswith("model_weights_config.json"):
            return edited(
                data, lambda content: [w.update(use_pickle=True) for w in content["config"].values()]
            )
        return evil if "/weights/" in name else data

    for change in (in_inputs, in_weights):
        with pytest.raises(ValueError, match=r"model\.pt2: damaged.*it holds a pickle of more than"):
            load_program(planted(whole[0], tmp_path / "model.pt2", change, {}), CPU)
        assert not mark.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("target", ["torch.os.mkdir", "torch.hub.load", "torch.ops.aten.from_file.default",
                                    "torch.ops.aten.save.default",
                                    "torch.ops.load_library", "math.__loader__.load_module", 3])  # fmt: skip
def test_functions_that_are_no_operations_are_refused(whole, tmp_path, target):
    def change(name, data):
        def edit(content):
            content["graph_module"]["graph"]["nodes"][0]["target"] = target

        return edited(data, edit) if name.endswith("models/model.json") else data

    with pytest.raises(ValueError, match="which an export does not"):
        load_program(planted(whole[0], tmp_path / "model.pt2", change, {}), CPU)


def test_sizes_are_arithmetic(whole, tmp_path):
    mark, seen = tmp_path / "mark", []

    def walk(value):
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            if isinstance(part, dict) and "expr_str" in part:
                seen.append(part["expr_str"])
                part["expr_str"] = f"__import__('os').mkdir('{mark}')"
            walk(part)

    def change(name, data):
        return edited(data, walk) if name.endswith("models/model.json") else data

    with pytest.raises(ValueError, match=r"it asks for .__import__"):
        load_program(planted(whole[0], tmp_path / "model.pt2", change, {}), CPU)
    assert seen
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["model/data/aotinductor/model/x.so", "model/extra/x", "version", "model/../x"]
)
def test_other_members_are_refused(whole, tmp_path, name):
    path = planted(whole[0], tmp_path / "model.pt2", lambda name, data: data, {name: b"x"})
    with pytest.raises(ValueError, match=r"it holds .* which an export does not"):
        load_program(path, CPU)


def test_nesting_without_end_is_refused(whole, tmp_path):
    def change(name, data):
        return b"[" * 100_000 if name.endswith("models/model.json") else data

    with pytest.raises(ValueError, match="nested too deeply"):
        load_program(planted(whole[0], tmp_path / "model.pt2", change, {}), CPU)


def test_text_that_torch_would_run_as_code_is_refused(whole, tmp_path):
    """Conditions on inputs and the names of inputs become Python code when a program is loaded."""
    mark = tmp_path / "mark"
    call = f"__import__('os').mkdir('{mark}')"

    def swap(old, new):
        return lambda name, data: data.replace(
            json.dumps(old).encode(), json.dumps(new).encode()
        ) if name.endswith("models/model.json") else data  # fmt: skip

    def guard(name, data):
        return edited(data, lambda c: c.update(guards_code=[call])) if name.endswith("model.json") else data

    changes = (guard, swap("x", f"x={call}"), swap("fc.weight", f'fc.weight"), {call}, ("'))
    for change in changes:
        with pytest.raises(ValueError, match=r"it asks for .*, which an export does not"):
            load_program(planted(whole[0], tmp_path / "model.pt2", change, {}), CPU)(torch.ones(2, 2, 3))
        assert not mark.exists()


def test_layouts_name_containers_alone(whole, tmp_path):
    for kind in ("collections.defaultdict", "torch.return_types.max"):

        def change(name, data, kind=kind):
            return data.replace(b"builtins.tuple", kind.encode()) if name.endswith("model.json") else data

        with pytest.raises(ValueError, match=f"it asks for '{kind}'"):
            load_program(planted(whole[0], tmp_path / "model.pt2", change, {}), CPU)


def test_conditions_on_sizes_are_read(tmp_path):
    class Halves(nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0] // 2, -1) if x.shape[0] % 2 == 0 and x.shape[0] >= 4 else x

    auto = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(Halves(), (torch.ones(6, 3),), dynamic_shapes=auto, strict=False)
    torch.export.save(program, tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        guards = json.loads(archive.read("model/models/model.json")).get("guards_code", [])
    assert all("L['x']" in guard for guard in guards)
    assert load_program(tmp_path / "model.pt2", CPU)(torch.ones(8, 3)).shape == (4, 6)


def test_blocks_in_another_precision_are_read_and_looked_into(tmp_path):
    """As some of timm's models have them."""

    class Half(nn.Module):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                y = x @ x.mT
            with torch.no_grad():
                return y.float() + 1

    images = torch.randn(2, 3, 4)
    torch.export.save(torch.export.export(Half(), (images,), strict=False), tmp_path / "model.pt2")
    torch.testing.assert_close(load_program(tmp_path / "model.pt2", CPU)(images), Half()(images))

    def change(name, data):
        return data.replace(b"torch.ops.aten.matmul.default", b"torch.os.mkdir")

    with pytest.raises(ValueError, match=r"it asks for 'torch\.os\.mkdir'"):
        load_program(planted(tmp_path / "model.pt2", tmp_path / "other.pt2", change, {}), CPU)


def test_what_is_looked_at_is_what_is_loaded(whole, tmp_path):
    """One file, two directories: Python finds the last one, torch the one at the offset that it is told."""
    path, net = whole
    shown = planted(path, tmp_path / "shown.pt2", lambda name, data: data, {}).read_bytes()

    def other(name, data):
        return data.replace(b"aten.linear.default", b"aten.linear.nowhere")

    hidden = planted(path, tmp_path / "hidden.pt2", other, {}).read_bytes()
    first, end = (data.rindex(b"PK\x05\x06") for data in (hidden, shown))
    (hidden_at,) = struct.unpack("<I", hidden[first + 16 : first + 20])
    size, shown_at = struct.unpack("<II", shown[end + 12 : end + 20])
    both = bytearray(hidden[:first] + shown)
    moved = first + end - size - hidden_at  # what Python adds to every offset
    place = first + shown_at
    while both[place : place + 4] == b"PK\x01\x02":
        lengths = struct.unpack("<HHH", both[place + 28 : place + 34])
        (offset,) = struct.unpack("<I", both[place + 42 : place + 46])
        both[place + 42 : place + 46] = struct.pack("<I", offset + first - moved)
        place += 46 + sum(lengths)
    both[first + end + 16 : first + end + 20] = struct.pack("<I", hidden_at)
    (tmp_path / "both.pt2").write_bytes(both)
    images = torch.randn(3, 2, 3)
    torch.testing.assert_close(load_program(tmp_path / "both.pt2", CPU)(images), net(images))
