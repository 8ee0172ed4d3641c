"""What a run measures beside accuracy is the same on two processes as on one: wrong labels, outliers."""

import json
import os

import pytest
import torch
import torch.multiprocessing as mp

from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.runner import run

TIMES = {"train_time", "images_per_s", "collapse_time", "md_time"}


@pytest.fixture(autouse=True)
def without_report(monkeypatch):
    monkeypatch.setattr("etfhead.experiment.report.write_report", lambda out: out)


@pytest.fixture
def recipe():
    """No batch statistics; 359 test images and 143 of validation, which do not halve."""
    return Recipe(
        name="figures",
        model="etfhead_mlp",
        model_kwargs={"widths": [16, 12]},
        img_size=8,
        in_chans=1,
        dataset="digits",
        train_limit=301,
        noise_kind="symmetric",
        noise_rate=0.4,
        ood_dataset="synthetic",
        batch_size=32,
        collapse_every=1,
        collapse_images=101,
        epochs=1,
        lr=1e-2,
        cpu=True,
        seeds=(0,),
        arms={"etf": Arm(head="etf", neck="none", scale=5.0)},
        baseline="etf",
    )


def _run(rank, recipe, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="0")
    run(recipe, f"{folder}/two")
    torch.distributed.destroy_process_group()


def test_two_processes_measure_what_one_measures(recipe, tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    mp.start_processes(_run, args=(recipe, str(tmp_path)), nprocs=2, start_method="fork")
    run(recipe, tmp_path / "one")
    one, two = (tmp_path / out / "arms/etf/seed0" for out in ("one", "two"))
    figures = [json.loads((folder / "result.json").read_text())["last"] for folder in (one, two)]
    rows = [json.loads((folder / "metrics.jsonl").read_text()) for folder in (one, two)]
    assert {"test_md_dilation", "test_ood_auroc_max_softmax", "test_ood_auroc_nci"} <= figures[0].keys()
    assert {"val_true_top1", "md_memorization", "md_nc1_train_true", "md_noise_rate"} <= rows[0].keys()
    bins = [each.pop("test_reliability")["count"] for each in figures]
    assert bins[0] == bins[1]
    assert sum(bins[0]) % 2 == 1
    for expected, found in (figures, rows):
        assert expected.keys() == found.keys()
        for name in expected.keys() - TIMES:
            assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name
