"""Exports tell nothing of the machine that wrote them, and those of others make timm read nothing else."""

import importlib.util
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import etfhead
from etfhead.experiment.export import export_run, formats
from etfhead.experiment.export.formats import FORMATS, load_stock


def contents(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"\n".join(archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize("name", FORMATS)
def test_no_path_of_this_machine_is_in_an_export(digits, tmp_path, name):
    if name == "onnx" and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("needs the extra etfhead[onnx]")
    folder = export_run(digits, tmp_path / name, arm="etf", seed=0, format_name=name).folder
    places = [Path(etfhead.__file__).parents[1], Path(os.path.expanduser("~")), Path.cwd(), digits, tmp_path]
    places = [str(place).encode() for place in places if len(place.parts) > 2] + [b"site-packages"]
    for path in folder.iterdir():
        text = contents(path)
        assert not [place for place in places if place in text], path.name


def test_no_path_is_in_the_blocks_of_a_program(tmp_path):
    """Some of timm's models compute a part in another precision, which is a graph of its own."""

    class Half(nn.Module):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                y = x @ x.mT
            return y.float()

    program = formats._traced(Half(), {"architecture": "x", "pretrained_cfg": {"input_size": [3, 4, 4]}})
    torch.export.save(program, tmp_path / "model.pt2")
    text = contents(tmp_path / "model.pt2")
    assert b"wrap_with_autocast" in text
    assert Path(__file__).name.encode() not in text


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir"])
def test_a_configuration_cannot_make_timm_read_another_file(digits, tmp_path, key):
    folder = export_run(digits, tmp_path / "out", arm="etf", seed=0, format_name="timm").folder
    load_stock(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"][key] = str(tmp_path / "evil.pt")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"an export has no {key} among the model_args"):
        load_stock(folder)
