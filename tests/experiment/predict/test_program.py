"""A program is read without running anything that was planted in its file."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from etfhead.experiment.predict.program import load_program

CPU = torch.device("cpu")


class Harm:
    """Unpickled, it makes a folder that shows it was."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


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


def test_pickles_are_not_opened(whole, tmp_path):
    mark = tmp_path / "mark"
    evil = pickled((Harm(mark),))

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
