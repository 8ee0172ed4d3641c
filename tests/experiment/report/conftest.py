"""Run folders as `etfhead run` leaves them, in milliseconds: a report needs no training to be tested."""

import json
import math
import random

import pytest
import yaml


def _history(rng, epochs, final, speed, steps_per_epoch):
    rows = []
    for epoch in range(epochs):
        progress = 1 - math.exp(-4.0 * (epoch + 1) / epochs)
        top1 = 10 + (final - 10) * progress / (1 - math.exp(-4.0)) + rng.gauss(0, 0.3)
        rows.append(
            {
                "epoch": epoch,
                "step": (epoch + 1) * steps_per_epoch,
                "lr": 0.002 * (1 - epoch / epochs),
                "train_loss": 2.3 - 2.1 * progress,
                "train_top1": top1 + 1,
                "val_loss": 2.3 - 2.0 * progress + rng.gauss(0, 0.01),
                "val_top1": top1,
                "val_ece": 2.0 + rng.random(),
                "train_time": (epoch + 1) * steps_per_epoch * 128 / speed,
                "images_per_s": speed,
                "scale": None,
            }
        )
    return rows


@pytest.fixture
def edit_rows():
    """A function that changes every measured row of chosen trainings in place, ``initial`` as epoch 0."""

    def edit(folder, change, where="*/seed*"):
        for place in sorted(folder.glob(f"arms/{where}")):
            rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
            for row in rows:
                change(row, row["epoch"] + 1)
            (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            if (place / "result.json").is_file():
                result = json.loads((place / "result.json").read_text())
                change(result["initial"], 0)
                (place / "result.json").write_text(json.dumps(result))

    return edit


def _collapse(rng, epoch, epochs, fixed):
    """What the training loop writes where it measured; epoch 0 is the untrained model."""
    left = math.exp(-8.0 * epoch / epochs) * (0.9 + 0.2 * rng.random())
    return {
        "collapse_nc1": (3.0 if fixed else 9.0) * left**1.3,
        "collapse_cdnv": (2.0 if fixed else 4.0) * left,
        "collapse_nc2_equinorm": 0.04 + 0.3 * left,
        "collapse_nc2_equiangular": 0.05 + 0.4 * left,
        "collapse_nc2_etf": 0.06 + 0.9 * left,
        "collapse_nc3": 0.02 + 1.9 * left,
        "collapse_nc4": 0.6 * left,
        "collapse_images": 1000.0,
        "collapse_missing": 0.0,
        "collapse_time": 0.5,
    }


def _result(rng, arm, seed, history, top1, *, fixed, cuda):
    best = max(history, key=lambda row: row["val_top1"])["epoch"]
    test = {"test_loss": 0.12 + 0.01 * rng.random(), "test_ece": 1 + rng.random()}
    return {
        "arm": arm,
        "seed": seed,
        "complete": True,
        "epochs": len(history),
        "steps": history[-1]["step"],
        "train_time": history[-1]["train_time"],
        "images_per_s": history[-1]["images_per_s"],
        "peak_memory_bytes": 3 * 2**28 if cuda else None,
        "params_total": 273_066 if fixed else 273_706,
        "params_trainable": 273_067 if fixed else 273_706,
        "params_head": 1 if fixed else 650,
        "head_bytes": 2604,
        "optimizer_state_bytes": 2_189_648,
        "optimizer_state_bytes_head": 8 if fixed else 5200,
        "initial": {"val_top1": 10 + rng.random()},
        "last": {"epoch": len(history) - 1, "test_top1": top1 - 0.05, **test},
        "best": {"epoch": best, "test_top1": top1, **test},
        "device": "cuda" if cuda else "cpu",
        "fingerprint": {"data": "0123abcd"},
    }


@pytest.fixture
def fake_run(tmp_path):
    """A function that writes a run folder and returns its path.

    ``tops`` gives the test accuracies at the best epoch by arm, one a seed; ``unfinished`` maps (arm, seed)
    to the number of epochs it came to (0: never started). ``collapse``: neural collapse is measured before
    training and every so many epochs.
    """

    def write(
        tops, *, unfinished=None, epochs=12, heads=None, cuda=False, collapse=None, name="run", **recipe
    ):
        folder = tmp_path / name
        seeds = list(range(len(next(iter(tops.values())))))
        heads = heads or {}
        arms = {arm: {"head": heads.get(arm, "etf" if "etf" in arm else "linear")} for arm in tops}
        settings = {
            "name": "fake",
            "description": "Digits with a small residual network.",
            "model": "test_resnet",
            "pretrained": False,
            "dataset": "digits",
            "img_size": 16,
            "epochs": epochs,
            "batch_size": 128,
            "opt": "adamw",
            "lr": 0.002,
            "weight_decay": 0.05,
            "sched": "cosine",
            "seeds": seeds,
            "arms": arms,
            "baseline": next(iter(tops)),
            "target_accuracy": None,
            **recipe,
        }
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (folder / "env.json").write_text(
            json.dumps({"etfhead": "0.1.0", "command": "etfhead run digits --out run", "torch": "2.15.0"})
        )
        (folder / "data.json").write_text(
            json.dumps({"sizes": {"train": 1200, "val": 150, "test": 447}, "class_counts": [120] * 10})
        )
        for arm, values in tops.items():
            fixed = arms[arm]["head"] == "etf"
            for seed, top1 in zip(seeds, values, strict=True):
                rng = random.Random(f"{arm}/{seed}")
                done = (unfinished or {}).get((arm, seed), epochs)
                if done == 0:
                    continue
                place = folder / "arms" / arm / f"seed{seed}"
                place.mkdir(parents=True)
                speed = (1030 if fixed else 1000) * (1 + 0.02 * rng.random())
                history = _history(rng, epochs, top1 + 0.5, speed, 10)[:done]
                measured = {
                    epoch: _collapse(rng, epoch, epochs, fixed)
                    for epoch in (range(0, epochs + 1, collapse) if collapse else ())
                }
                history = [{**row, **measured.get(row["epoch"] + 1, {})} for row in history]
                (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
                if done == epochs:
                    result = _result(rng, arm, seed, history, top1, fixed=fixed, cuda=cuda)
                    if collapse:
                        result["initial"] |= measured[0]
                        result["collapse_time"] = 0.5 * len(measured)
                    (place / "result.json").write_text(json.dumps(result))
        return folder

    return write
