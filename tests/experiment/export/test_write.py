"""An export read back by stock libraries gives the trained model's logits, or there is no export."""

import importlib.util
import json
import re

import pytest
import timm
import torch
from safetensors.torch import load_file

from etfhead.experiment.export import FORMATS, export_run, formats, load_trained, rank_models, write
from etfhead.experiment.report.records import read_run
from tests.older_timm import from_folder

FOLD = ["learnable", "etf", "posthoc"]
DO_NOT_FOLD = ["cosine", "class_mean"]

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra etfhead[onnx]: onnx, onnxscript and onnxruntime",
)


def images(count=5):
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(7))


def trained_logits(run, arm, seed, weights="best"):
    records = read_run(run)
    trained = load_trained(records, rank_models(records, arm=arm, seed=seed, weights=weights)[0])
    with torch.no_grad():
        return trained.logits(images())


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arm", FOLD)
@pytest.mark.parametrize("weights", ["best", "last"])
def test_timm_folder_loads_through_stock_timm(digits, tmp_path, arm, weights):
    done = export_run(digits, tmp_path / "out", arm=arm, seed=1, weights=weights)
    model = from_folder(tmp_path / "out")
    with torch.no_grad():
        assert close(model(images()), trained_logits(digits, arm, 1, weights))
    assert (done.choice.arm, done.choice.seed, done.choice.weights) == (arm, 1, weights)
    assert 0 <= done.difference < 1e-4 < done.largest_logit
    stock = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == stock.state_dict().keys()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }


def test_safetensors_is_one_file_with_its_configuration_inside(digits, tmp_path):
    export_run(digits, tmp_path / "out", arm="etf", seed=0, format_name="safetensors")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "model.safetensors"}
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    with torch.no_grad():
        assert close(model.eval()(images()), trained_logits(digits, "etf", 0))
    config = formats.read_config(tmp_path / "out")
    assert (config["architecture"], config["label_names"]) == ("test_resnet", list("0123456789"))


def test_a_posthoc_adjustment_moves_into_the_bias(digits, tmp_path):
    export_run(digits, tmp_path / "out", arm="posthoc", seed=0)
    counts = torch.tensor(json.loads((digits / "data.json").read_text())["class_counts"]).double()
    trained = load_file(digits / "arms" / "posthoc" / "seed0" / "best.safetensors")["fc.bias"]
    expected = trained.double() - (counts / counts.sum()).log()
    found = load_file(tmp_path / "out" / "model.safetensors")["fc.bias"].double()
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("arm", ["etf", "posthoc_cosine", "class_mean"])
def test_torch_export_takes_every_head_and_any_batch(digits, tmp_path, arm):
    done = export_run(digits, tmp_path / "out", arm=arm, seed=0, format_name="torch-export")
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    expected = trained_logits(digits, arm, 0)
    for count in (1, 2, 5):
        assert close(program(images()[:count]), expected[:count])
    assert ("kept as it is" in done.head) == (arm != "etf")


@needs_onnx
@pytest.mark.slow  # `make test-slow` installs the extra
@pytest.mark.parametrize("arm", ["etf", "class_mean"])
@pytest.mark.parametrize("beside", [False, True])
def test_onnx_takes_every_head_and_any_batch(digits, tmp_path, monkeypatch, arm, beside):
    import onnxruntime

    monkeypatch.setattr(formats, "_ONE_FILE", 0 if beside else formats._ONE_FILE)
    done = export_run(digits, tmp_path / "out", arm=arm, seed=0, format_name="onnx")
    assert done.difference < 1e-3
    assert (tmp_path / "out" / "model.onnx.data").exists() == beside
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    expected = trained_logits(digits, arm, 0)
    for count in (1, 2, 5):
        (found,) = session.run(["logits"], {"images": images()[:count].numpy()})
        assert close(torch.from_numpy(found), expected[:count])


@pytest.mark.parametrize("lacking", [["onnx"], ["onnx", "onnxscript"]])
def test_onnx_without_its_packages_says_what_to_install(digits, tmp_path, monkeypatch, lacking):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in lacking else (find(name) or name)
    )
    with pytest.raises(
        ValueError, match=rf"needs {' and '.join(lacking)}.*pip install onnx onnxscript onnxruntime$"
    ):
        export_run(digits, tmp_path / "out", format_name="onnx")
    assert not (tmp_path / "out").exists()


def test_onnx_that_nothing_can_read_is_said_to_be_unchecked(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "missing_packages", lambda name: [])
    monkeypatch.setattr(write, "write_format", lambda name, model, config, folder: None)
    monkeypatch.setattr(write, "reload", lambda name, folder: None)
    done = export_run(digits, tmp_path / "out", arm="etf", format_name="onnx")
    assert done.difference is None
    assert re.search("not compared .*; pip install onnx onnxscript onnxruntime$", done.notes[0])


@pytest.mark.parametrize("arm", DO_NOT_FOLD)
@pytest.mark.parametrize("name", ["timm", "safetensors"])
def test_a_head_that_does_not_fold_is_refused_with_the_way_out(digits, tmp_path, arm, name):
    with pytest.raises(ValueError, match=rf"^{arm}: no plain layer.*--format onnx or torch-export"):
        export_run(digits, tmp_path / "out", arm=arm, format_name=name)
    assert not (tmp_path / "out").exists()


def test_the_best_arm_that_folds_is_taken_and_better_ones_are_named(digits, tmp_path, monkeypatch):
    ranked = rank_models(read_run(digits))
    order = {choice.arm: choice for choice in ranked}
    monkeypatch.setattr(write, "rank_models", lambda *a, **k: [order["cosine"], order["etf"]])
    done = export_run(digits, tmp_path / "out")
    assert done.choice.arm == "etf"
    assert done.notes[0].startswith("passed over cosine")
    monkeypatch.setattr(write, "rank_models", lambda *a, **k: [order["cosine"], order["class_mean"]])
    with pytest.raises(ValueError, match=r"^cosine, class_mean: no plain layer"):
        export_run(digits, tmp_path / "other")


def test_the_default_folder_is_inside_the_run(digits):
    done = export_run(digits, arm="etf", seed=1, overwrite=True)
    assert done.folder == digits / "exports" / "etf-seed1-best-timm"
    assert (done.folder / "model.safetensors").is_file()


def test_logits_that_differ_leave_nothing_and_the_earlier_export_alone(digits, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_run(digits, out, arm="etf", seed=0)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    honest = write.reload
    monkeypatch.setattr(write, "reload", lambda *a: lambda x: honest(*a)(x) + 0.1)
    with pytest.raises(ValueError, match=r"differ from the trained model's by 1\.00e-01"):
        export_run(digits, out, arm="learnable", seed=0, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.setattr(write, "reload", lambda *a: lambda x: honest(*a)(x) * float("nan"))
    with pytest.raises(ValueError, match="by nan"):
        export_run(digits, out, arm="learnable", seed=0, overwrite=True)
    monkeypatch.setattr(write, "reload", lambda *a: lambda x: honest(*a)(x)[:, :3])
    with pytest.raises(ValueError, match=r"shape \(3, 3\), the model \(3, 10\)"):
        export_run(digits, out, arm="learnable", seed=0, overwrite=True)


def test_an_empty_name_is_not_the_current_folder(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^out: an empty name"):
        export_run(digits, "", arm="etf", seed=0)
    assert not list(tmp_path.iterdir())


def test_overwrite_replaces_and_its_absence_refuses(digits, tmp_path):
    out = tmp_path / "out"
    export_run(digits, out, arm="etf", seed=0, format_name="torch-export")
    with pytest.raises(ValueError, match="--overwrite replaces it"):
        export_run(digits, out, arm="etf", seed=0)
    export_run(digits, out, arm="etf", seed=0, overwrite=True)
    assert not (out / "model.pt2").exists()
    assert json.loads((out / "config.json").read_text())["etfhead"]["format"] == "timm"


def test_a_model_that_is_not_timms_needs_a_traced_format(digits, tmp_path, monkeypatch):
    def entrypoint(name):
        return test_a_model_that_is_not_timms_needs_a_traced_format

    monkeypatch.setattr("timm.models.model_entrypoint", entrypoint)
    with pytest.raises(ValueError, match=r"^'test_resnet' is not a model of timm; use"):
        export_run(digits, tmp_path / "out", arm="etf")


def test_unknown_format(digits):
    with pytest.raises(ValueError, match="format 'tflite': expected one of timm, safetensors"):
        export_run(digits, format_name="tflite")
    assert set(FORMATS) == {"timm", "safetensors", "onnx", "torch-export"}
