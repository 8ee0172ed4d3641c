"""A run and its exports predict the same of image files, to the figures that the run wrote down."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etfhead.experiment.data.multilabel_synthetic import read_multilabel_synthetic
from etfhead.experiment.export import export_run, load_trained, rank_models
from etfhead.experiment.predict import load_predictor, predict
from etfhead.experiment.report.records import read_run

# In `make test-slow`, which installs the extra.
FORMATS = ["timm", "safetensors", "torch-export", pytest.param("onnx", marks=pytest.mark.slow)]


def skip_without_onnx(name):
    if name == "onnx" and any(importlib.util.find_spec(p) is None for p in ("onnxscript", "onnxruntime")):
        pytest.skip("needs the extra etfhead[onnx]")


def result(run, arm, weights="best"):
    records = read_run(run)
    return load_trained(records, rank_models(records, arm=arm, seed=0)[0]).result[weights]


@pytest.mark.parametrize("arm", ["etf", "cosine", "posthoc"])
@pytest.mark.parametrize("weights", ["best", "last"])
def test_a_run_folder_gives_its_own_test_accuracy(digits, digit_files, arm, weights):
    files, labels = digit_files
    predictor = load_predictor(digits, arm=arm, seed=0, weights=weights, device="cpu")
    found = [p.top[0][0] for p in predict(predictor, files, top_k=1, batch_size=100)]
    accuracy = 100 * np.mean(np.array(found) == np.array(labels))
    assert accuracy == pytest.approx(result(digits, arm, weights)["test_top1"], abs=1e-9)


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_gives_the_runs_probabilities(digits, digit_files, tmp_path, name):
    skip_without_onnx(name)
    files = digit_files[0][:40]
    export_run(digits, tmp_path / "out", arm="etf", seed=0, format_name=name)
    expected = list(predict(load_predictor(digits, arm="etf", seed=0, device="cpu"), files, top_k=10))
    found = list(predict(load_predictor(tmp_path / "out", device="cpu"), files, top_k=10, batch_size=7))
    for one, other in zip(found, expected, strict=True):
        assert one.file == other.file
        found_by_label = {label: p for label, _, p in one.top}
        assert found_by_label == pytest.approx({label: p for label, _, p in other.top}, abs=1e-4)


@pytest.fixture(scope="module")
def label_files(tmp_path_factory):
    folder, test = tmp_path_factory.mktemp("labels"), read_multilabel_synthetic(16).test
    files = [folder / f"{place:03d}.png" for place in range(len(test))]
    for file, pixels in zip(files, test.pixels, strict=True):
        Image.fromarray(pixels).save(file)
    return files, np.asarray(test.labels) > 0.5


@pytest.mark.parametrize("arm", ["etf", "learnable"])
@pytest.mark.parametrize("source", ["run", "timm", "torch-export"])
def test_label_sets_are_decided_as_in_the_run(label_sets, label_files, tmp_path, arm, source):
    files, hot = label_files
    where, options = label_sets, {"arm": arm, "seed": 0}
    if source != "run":
        where, options = export_run(label_sets, tmp_path / "out", **options, format_name=source).folder, {}
    predictor = load_predictor(where, device="cpu", **options)
    found = list(predict(predictor, files, top_k=10, batch_size=20))
    names = np.array(predictor.class_names)
    exact = [set(p.labels) == set(names[row]) for p, row in zip(found, hot, strict=True)]
    assert 100 * np.mean(exact) == pytest.approx(result(label_sets, arm)["test_exact_match"], abs=1e-9)
    assert any(p.labels for p in found)
    for p in found:
        probabilities = [value for _, _, value in p.top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(0 <= value <= 1 for value in probabilities)


# What training and reports need beyond timm's own dependencies, and what only some exports are written with.
EXTRAS = ("torchmetrics", "accelerate", "matplotlib", "sklearn", "scipy", "pandas", "transformers", "onnx")
WITHOUT = """
import json, sys
from stock_reader import hide

folders, image, extras = json.loads(sys.argv[1])
hide(extras)
from etfhead.cli import main

for folder in folders:
    print(main(["predict", folder, image, "--json", "--top-k", "3", "--device", "cpu"]))
assert not {name.partition(".")[0] for name in sys.modules} & set(extras)
"""


def test_an_export_needs_nothing_of_training(digits, label_sets, digit_files, label_files, tmp_path):
    made = [(digits, "etf", name) for name in ("timm", "safetensors", "torch-export")]
    made += [(label_sets, arm, "timm") for arm in ("etf", "learnable")]
    folders = []
    for place, (run, arm, name) in enumerate(made):
        done = export_run(run, tmp_path / str(place), arm=arm, seed=0, format_name=name)
        folders.append(str(done.folder))
    words = json.dumps([folders, str(label_files[0][0]), EXTRAS])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[1::2] == ["0"] * len(folders), done.stderr[-2000:]
    rows = [json.loads(line) for line in lines[::2]]
    assert all(len(row["predictions"]) == 3 for row in rows)
    assert ["labels" in row for row in rows] == [run is label_sets for run, _, _ in made]
