"""Exports in a Python that has never heard of etfhead: the card's code gives the trained model's logits.

Another Python is needed, with timm and onnxruntime and without etfhead. `make test-slow` makes one.
"""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import etfhead
from etfhead.experiment.export import FORMATS, export_run, load_trained, rank_models
from etfhead.experiment.predict.images import decoded_batches
from etfhead.experiment.report.records import read_run

STOCK, OLD_TIMM = (os.environ.get(f"ETFHEAD_STOCK_{name}") for name in ("PYTHON", "OLD_TIMM"))
READER = Path(__file__).with_name("stock_reader.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not STOCK, reason="ETFHEAD_STOCK_PYTHON names no Python with timm and onnxruntime, without etfhead"
    ),
]

# Of the largest logit. Float32 has 1.2e-7; onnxruntime fuses layers.
CLOSE = {"timm": 2e-6, "safetensors": 2e-6, "torch-export": 2e-6, "onnx": 1e-5}
PLAIN = ("timm", "safetensors")
PREDICTED = {"etf_haar", "class_mean", "label sets: etf"}
DO_NOT_FOLD = {"etf_normalize", "cosine", "class_mean", "class_mean_posthoc", "delta"}


def stock(*words):
    """Run the other Python, isolated: no PYTHONPATH, no user's packages, no current folder on its path."""
    done = subprocess.run([STOCK, "-I", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def material(run, folder):
    """An image file and random input for a run's models."""
    trained = load_trained(records := read_run(run), rank_models(records)[0])
    folder.mkdir()
    channels, height, width = trained.data_config["input_size"]
    shape = (2 * height + 3, 3 * width)  # neither square nor of the model's size
    pixels = np.random.default_rng(1).integers(0, 256, shape if channels == 1 else (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    random = torch.randn(5, channels, height, width, generator=torch.Generator().manual_seed(11))
    np.save(folder / "random.npy", random.numpy())
    return folder


def expected_logits(run, arm, images):
    """By etfhead, from the weights in the run folder."""
    records = read_run(run)
    trained = load_trained(records, rank_models(records, arm=arm, seed=0)[0])
    random = torch.from_numpy(np.load(images / "random.npy"))
    ((_, picture, _),) = decoded_batches([images / "image.png"], trained.data_config, batch_size=1)
    with torch.no_grad():
        named = {"many": random, "one": random[:1], "picture": picture}
        return {name: trained.logits(batch).numpy() for name, batch in named.items()}


@pytest.fixture(scope="module")
def exports(heads, label_sets, tmp_path_factory):
    """Every head in every format that takes it: (head, format) -> job of the reader, and expected logits."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.fail(f"exports to ONNX need {' and '.join(missing)}: pip install onnx onnxscript onnxruntime")
    root, found = tmp_path_factory.mktemp("out side"), {}
    for run, prefix in ((heads, ""), (label_sets, "label sets: ")):
        images = material(run, root / f"images of {run.parent.name}")
        for arm in read_run(run).runs:
            expected = expected_logits(run, arm, images)
            for name in FORMATS:
                export = root / f"{run.parent.name} {arm} {name}"
                if arm in DO_NOT_FOLD and name in PLAIN:
                    with pytest.raises(ValueError, match="no plain layer has the same logits"):
                        export_run(run, export, arm=arm, seed=0, format_name=name)
                    continue
                export_run(run, export, arm=arm, seed=0, format_name=name)
                job = {"export": str(export), "images": str(images)}
                found[prefix + arm, name] = job, expected
    return found


def compare(exports, folder, *ways, formats=FORMATS):
    """Let the other Python read exports; their largest differences, over the largest logit."""
    chosen = {key: value for key, value in exports.items() if key[1] in formats}
    jobs = [{**job, "out": str(folder / f"{place}.npz")} for place, (job, _) in enumerate(chosen.values())]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    versions = json.loads(stock(READER, *ways, folder / "jobs.json"))
    rows = {}
    for (key, (_, expected)), job in zip(chosen.items(), jobs, strict=True):
        found = np.load(job["out"])
        assert {"many", "one"} <= set(found.files)
        for name in found.files:
            assert found[name].dtype == np.float32
            assert found[name].shape == expected[name].shape
        largest = max(np.abs(value).max() for value in expected.values())
        rows[key] = max(np.abs(found[name] - expected[name]).max() for name in found.files) / largest
    return rows, versions


def check(rows, versions, way):
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"\n{way} ({told})")
    heads = dict.fromkeys(head for head, _ in rows)
    for head in heads:
        cells = (f"{rows[head, name]:.1e}" if (head, name) in rows else "-" for name in FORMATS)
        print(f"| {head} | {' | '.join(cells)} |")
    for (head, name), difference in rows.items():
        assert difference <= CLOSE[name], f"{head} as {name}: {difference:.1e} of the largest logit"


def test_the_other_python_has_no_etfhead_and_nothing_of_its_training(tmp_path):
    names = ["etfhead", "torchmetrics", "accelerate", "sklearn", "scipy", "matplotlib"]
    code = f"from importlib.util import find_spec; print([n for n in {names} if find_spec(n)])"
    assert stock("-c", code).strip() == "[]"


def test_the_cards_code_gives_the_trained_models_logits(exports, tmp_path):
    rows, versions = compare(exports, tmp_path, "card")
    assert {name for _, name in rows} == set(FORMATS)
    assert {"torch", "timm", "onnxruntime"} <= versions.keys()
    check(rows, versions, "the card's code")


def test_onnxruntime_and_numpy_are_enough_for_onnx(exports, tmp_path):
    rows, versions = compare(exports, tmp_path, "bare", formats=["onnx"])
    assert versions.keys() == {"onnxruntime", "numpy"}
    check(rows, versions, "onnxruntime and numpy alone")


def test_torch_is_enough_for_torch_export(exports, tmp_path):
    rows, versions = compare(exports, tmp_path, "bare", formats=["torch-export"])
    assert versions.keys() == {"torch", "numpy"}
    check(rows, versions, "torch alone")


@pytest.mark.skipif(not OLD_TIMM, reason="ETFHEAD_STOCK_OLD_TIMM names no folder with timm 1.0.15")
def test_the_oldest_timm_reads_its_folder_as_the_card_says(exports, tmp_path):
    rows, versions = compare(exports, tmp_path, f"old-timm={OLD_TIMM}", formats=["timm"])
    assert versions["timm"] == "1.0.15"
    check(rows, versions, "the card's code for timm 1.0.15")


PREDICT = """
import json, sys

sys.path.insert(0, sys.argv[1])
from etfhead.cli import main

for folder, image in json.loads(sys.argv[2]):
    words = [folder, image, "--json", "--top-k", "10", "--device", "cpu"]
    assert main(["predict", *words]) == 0
"""


def test_predict_needs_the_package_and_timm_alone(exports, tmp_path):
    """etfhead's source, put where the other Python finds it, without any of its dependencies but timm's."""
    (tmp_path / "etfhead").symlink_to(Path(etfhead.__file__).parent)
    chosen = {key: value for key, value in exports.items() if key[0] in PREDICTED}
    assert {name for _, name in chosen} == set(FORMATS)
    jobs = [(job["export"], f"{job['images']}/image.png") for job, _ in chosen.values()]
    lines = stock("-c", PREDICT, tmp_path, json.dumps(jobs)).splitlines()
    for ((head, name), (_, expected)), line in zip(chosen.items(), lines, strict=True):
        row = json.loads(line)
        (logits,) = expected["picture"].astype(float)
        order = [entry["index"] for entry in row["predictions"]]
        assert order == logits.argsort()[::-1][:10].tolist(), (head, name)
        assert ("labels" in row) == head.startswith("label sets")
        if "labels" not in row:
            shares = np.exp(logits - logits.max())
            found = [entry["probability"] for entry in row["predictions"]]
            assert found == pytest.approx((shares / shares.sum())[order].tolist(), abs=1e-5)
